//! What a handler written in Rust needs beside the standard library.
//!
//! ```text
//!   HTTP request ─► http::Handler (router::Router) ─┬─► model::Model   (wasi:nn)
//!   stream batch ─► stream::Handler ────────────────┤   config::value  (wasi:config)
//!                                                     │   keyvalue::Bucket (wasi:keyvalue)
//!                                                     ├─► log::info    (wasi:logging)
//!                                                     ├─► outbound::get (wasi:http)
//!                                                     └─► stream::append (edge:runtime/streams)
//! ```
//!
//! A guest is a `cdylib` for `wasm32-wasip2`. It implements [`http::Handler`]
//! and calls [`http_handler!`], or implements [`stream::Handler`] and calls
//! [`stream_handler!`].

pub mod config;
pub mod http;
pub mod keyvalue;
pub mod log;
pub mod model;
pub mod outbound;
pub mod router;
pub mod stream;

#[doc(hidden)]
pub use wasip2;

/// The bindings of `wit/capabilities.wit`.
mod capabilities {
    wit_bindgen::generate!({
        path: "../wit",
        world: "capabilities",
        with: {
            "edge:runtime/records@0.1.0": crate::stream::bindings::edge::runtime::records,
        },
        generate_all,
    });
}
