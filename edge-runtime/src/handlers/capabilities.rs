//! What a guest can reach. Everything that is linked into guests is listed
//! here; what a handler may use of it stands in its [`Grant`].
//!
//! - WASI 0.2 and 0.3 whole, with nothing granted: no files, no sockets, no
//!   environment but the handler's own; clocks and random numbers work
//! - wasi:http, outbound to the allowed origins: [`outbound`]
//! - wasi:config, the handler's own values and its secrets: [`config`]
//! - wasi:nn, the allowed models by name: [`nn`]
//! - wasi:keyvalue, the handler's own values within its quota: [`keyvalue`]
//! - wasi:logging, lines in the node's log: [`logging`]
//! - edge:runtime/streams, the allowed streams: [`streams`]

pub(super) mod config;
pub(super) mod keyvalue;
pub(super) mod logging;
pub(super) mod nn;
pub(super) mod outbound;
pub(super) mod streams;

use std::collections::BTreeMap;

use fleet_api::deployment::Allow;
use fleet_api::ids::Name;
use wasmtime::component::{HasData, Linker};

use self::outbound::{Client, OutboundShare};
use super::engine::Calls;
use super::secrets::Secrets;
use super::state::GuestState;
use crate::keyvalue::KeyValue;
use crate::models::Models;
use crate::streams::Streams;

/// The generated Rust face of wit/.
pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "edge:runtime/capabilities",
        imports: {
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
            "wasi:keyvalue/atomics.increment": async | trappable,
            "wasi:keyvalue/batch.set-many": async | trappable,
            "wasi:keyvalue/batch.delete-many": async | trappable,
            "edge:runtime/streams.append": async | trappable,
            "edge:runtime/streams.read": async | trappable,
            default: trappable,
        },
        with: {
            "edge:runtime/records": crate::handlers::processor::bindings::edge::runtime::records,
            "wasi:keyvalue/store.bucket": super::keyvalue::Bucket,
            "wasi:nn/tensor.tensor": super::nn::Tensor,
            "wasi:nn/graph.graph": super::nn::Graph,
            "wasi:nn/inference.graph-execution-context": super::nn::ExecutionContext,
            "wasi:nn/errors.error": super::nn::NnError,
        },
        require_store_data_send: true,
    });
}

/// What one handler may reach, shared by all its instances.
pub(super) struct Grant {
    pub(super) handler: Name,
    pub(super) allow: Allow,
    pub(super) outbound: OutboundShare,
    pub(super) config: BTreeMap<String, String>,
    pub(super) models: Models,
    pub(super) keyvalue: Option<KeyValue>,
    pub(super) streams: Option<Streams>,
    pub(super) secrets: Secrets,
    pub(super) client: Client,
}

/// Gives host interfaces their view of a guest's state.
pub(super) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn linker(
    engine: &wasmtime::Engine,
    calls: Calls,
) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if calls == Calls::Async {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    config::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    nn::add_to_linker(&mut linker)?;
    streams::add_to_linker(&mut linker)?;
    Ok(linker)
}
