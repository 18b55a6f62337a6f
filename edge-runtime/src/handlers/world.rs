//! The worlds that a component may be of, and how each is linked.

use fleet_api::ids::Name;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{AsContextMut, Engine};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use super::HandlerError;
use super::processor::bindings::{Processor, ProcessorPre};
use super::state::GuestState;

/// A component linked and ready to be instantiated.
pub(super) enum World {
    /// `wasi:http/proxy@0.2`
    Http02(ProxyPre<GuestState>),
    /// `wasi:http/service@0.3`
    Http03(ServicePre<GuestState>),
    /// `edge:runtime/processor`
    Processor(ProcessorPre<GuestState>),
}

/// An instance's exports.
pub(super) enum Guest {
    Http02(Proxy),
    Http03(Service),
    Processor(Processor),
}

impl World {
    pub(super) fn link(
        linker: &Linker<GuestState>,
        component: &Component,
        name: &Name,
    ) -> Result<Self, HandlerError> {
        let engine = linker.engine();
        let exports: Vec<String> = component
            .component_type()
            .exports(engine)
            .map(|(export, _)| export.to_owned())
            .collect();
        let has = |prefix: &str| exports.iter().any(|export| export.starts_with(prefix));
        let of_world = [
            has("wasi:http/incoming-handler@0.2."),
            has("wasi:http/handler@0.3."),
            has("edge:runtime/process@0.1."),
        ];
        if !of_world.contains(&true) {
            return Err(HandlerError::World {
                name: name.clone(),
                exports,
            });
        }
        let missing = missing_imports(linker, component);
        if !missing.is_empty() {
            return Err(HandlerError::MissingImports {
                name: name.clone(),
                imports: missing,
            });
        }
        let linked = linker.instantiate_pre(component).and_then(|pre| {
            Ok(match of_world {
                [_, true, _] => Self::Http03(ServicePre::new(pre)?),
                [true, ..] => Self::Http02(ProxyPre::new(pre)?),
                _ => Self::Processor(ProcessorPre::new(pre)?),
            })
        });
        linked.map_err(|e| HandlerError::Link {
            name: name.clone(),
            reason: format!("{e:#}"),
        })
    }

    pub(super) async fn instantiate(
        &self,
        store: impl AsContextMut<Data = GuestState>,
    ) -> wasmtime::Result<Guest> {
        Ok(match self {
            Self::Http02(pre) => Guest::Http02(pre.instantiate_async(store).await?),
            Self::Http03(pre) => Guest::Http03(pre.instantiate_async(store).await?),
            Self::Processor(pre) => Guest::Processor(pre.instantiate_async(store).await?),
        })
    }
}

/// All interfaces that the component imports and the linker has in no version
/// that would do.
fn missing_imports(linker: &Linker<GuestState>, component: &Component) -> Vec<String> {
    if linker.instantiate_pre(component).is_ok() {
        return Vec::new();
    }
    let engine = linker.engine();
    let ty = component.component_type();
    let imports = ty.imports(engine);
    let missing =
        imports.filter(|(import, item)| !only_types(engine, &item.ty) && !offers(linker, import));
    missing.map(|(import, _)| import.to_owned()).collect()
}

/// An interface of nothing but types needs nobody to offer it.
fn only_types(engine: &Engine, import: &ComponentItem) -> bool {
    match import {
        ComponentItem::Type(_) => true,
        ComponentItem::ComponentInstance(instance) => instance
            .exports(engine)
            .all(|(_, export)| matches!(export.ty, ComponentItem::Type(_))),
        _ => false,
    }
}

/// The linker takes any version that is compatible with the one asked for, but
/// tells only of exact names: a name that cannot be defined again is there.
fn offers(linker: &Linker<GuestState>, import: &str) -> bool {
    let mut probe = linker.clone();
    let mut defined = |name: &str| {
        let taken = probe.root().func_wrap(name, |_, (): ()| Ok(()));
        taken.is_err()
    };
    if defined(import) {
        return true;
    }
    let compatible = import.rsplit_once('@').and_then(|(name, version)| {
        let (track, patch) = version.rsplit_once('.')?;
        let plain = patch.bytes().all(|b| b.is_ascii_digit());
        (plain && track.contains('.')).then(|| format!("{name}@{track}."))
    });
    compatible.is_some_and(|prefix| (0..64).any(|patch| defined(&format!("{prefix}{patch}"))))
}
