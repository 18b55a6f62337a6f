//! Stream processors: batches of records in, records out.

use serde::Serialize;

/// The bindings of `wit/processor.wit`.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "processor",
        pub_export_macro: true,
        default_bindings_module: "guest_sdk::stream::bindings",
    });
}

pub use bindings::edge::runtime::records::{Encoding, Output, Record};

/// Works on the batches of a stream. Register it with
/// [`stream_handler!`](crate::stream_handler).
pub trait Handler {
    /// Works on one batch. An error is retried with the same batch.
    fn process(stream: &str, batch: Vec<Record>) -> Result<Vec<Output>, String>;
}

impl Output {
    /// A record for `stream` with a value as JSON.
    pub fn json(stream: &str, value: &impl Serialize) -> Result<Self, String> {
        let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        Ok(Self {
            stream: stream.to_owned(),
            encoding: Encoding::Json,
            value,
        })
    }
}

/// Exports a type that implements [`stream::Handler`](Handler) as
/// `edge:runtime/process`.
#[macro_export]
macro_rules! stream_handler {
    ($handler:ty) => {
        struct ExportedHandler;

        impl $crate::stream::bindings::exports::edge::runtime::process::Guest for ExportedHandler {
            fn process(
                stream: String,
                batch: Vec<$crate::stream::Record>,
            ) -> Result<Vec<$crate::stream::Output>, String> {
                <$handler as $crate::stream::Handler>::process(&stream, batch)
            }
        }

        $crate::stream::bindings::export!(ExportedHandler with_types_in $crate::stream::bindings);
    };
}
