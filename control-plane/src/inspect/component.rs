//! WebAssembly components: the world they are for, and what they ask the host for.

use fleet_api::units::ByteSize;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::TypesRef;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

/// Why a component cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComponentRefusal {
    #[error("this is not WebAssembly: push the .wasm file that the build has made")]
    NotWasm,
    #[error(
        "this is a core module, not a component: build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    #[error("this is not valid WebAssembly: {0}")]
    Invalid(String),
    #[error("the component exports {}, but the runtime calls one of wasi:http/incoming-handler@0.2, wasi:http/handler@0.3 and edge:runtime/process@0.1", list(.0))]
    World(Vec<String>),
    #[error("the component imports what the runtime does not have: {}", .0.join(", "))]
    Imports(Vec<String>),
}

/// What the runtime calls, as package, interface and the versions that mean the same.
const EXPORTS: &[(&str, &str)] = &[
    ("wasi:http/incoming-handler", "0.2"),
    ("wasi:http/handler", "0.3"),
    ("edge:runtime/process", "0.1"),
];

/// Packages that the runtime has whole, in all releases of these versions.
const PACKAGES: &[(&str, &[&str])] = &[
    ("wasi:cli", &["0.2", "0.3"]),
    ("wasi:clocks", &["0.2", "0.3"]),
    ("wasi:filesystem", &["0.2", "0.3"]),
    ("wasi:io", &["0.2"]),
    ("wasi:random", &["0.2", "0.3"]),
    ("wasi:sockets", &["0.2", "0.3"]),
    ("wasi:http", &["0.2", "0.3"]),
    ("edge:runtime", &["0.1"]),
];

/// Packages without a release yet: exactly these versions.
const DRAFTS: &[(&str, &str)] = &[
    ("wasi:nn", "0.2.0-rc-2024-10-28"),
    ("wasi:config", "0.2.0-rc.1"),
    ("wasi:keyvalue", "0.2.0-draft"),
    ("wasi:logging", "0.1.0-draft"),
];

/// Describes a component, or refuses it.
pub(super) fn describe(bytes: &[u8]) -> Result<String, ComponentRefusal> {
    if Parser::is_core_wasm(bytes) {
        return Err(ComponentRefusal::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(ComponentRefusal::NotWasm);
    }
    let invalid = |e: wasmparser::BinaryReaderError| ComponentRefusal::Invalid(e.to_string());
    let features = WasmFeatures::default()
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_ASYNC_STACKFUL
        | WasmFeatures::CM_MORE_ASYNC_BUILTINS
        | WasmFeatures::CM_ERROR_CONTEXT;
    let types = Validator::new_with_features(features)
        .validate_all(bytes)
        .map_err(invalid)?;
    let shape = Shape::read(bytes).map_err(invalid)?;

    let served: Vec<_> = shape.exports.iter().filter(|e| is_served(e)).collect();
    if served.is_empty() {
        return Err(ComponentRefusal::World(shape.exports));
    }
    let lacking: Vec<_> = shape
        .imports
        .iter()
        .filter(|name| !is_there(name) && !only_types(types.as_ref(), name))
        .cloned()
        .collect();
    if !lacking.is_empty() {
        return Err(ComponentRefusal::Imports(lacking));
    }
    let served: Vec<_> = served.into_iter().map(String::as_str).collect();
    let mut words = format!("serves {}", served.join(", "));
    let uses: Vec<_> = [
        "wasi:nn/",
        "wasi:config/",
        "wasi:keyvalue/",
        "edge:runtime/streams",
        "wasi:http/outgoing-handler",
        "wasi:http/client",
    ]
    .into_iter()
    .filter(|prefix| shape.imports.iter().any(|i| i.starts_with(prefix)))
    .map(|prefix| prefix.trim_end_matches('/'))
    .collect();
    if !uses.is_empty() {
        words += &format!("; uses {}", uses.join(", "));
    }
    let memory = ByteSize(shape.memory_bytes);
    Ok(format!("{words}; needs at least {memory} of memory"))
}

/// The outside of a component.
#[derive(Default)]
struct Shape {
    imports: Vec<String>,
    exports: Vec<String>,
    /// What its core modules ask for at start.
    memory_bytes: u64,
}

impl Shape {
    fn read(bytes: &[u8]) -> wasmparser::Result<Self> {
        let mut shape = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    debug_assert!(depth > 1 || encoding == Encoding::Component);
                }
                Payload::End(_) => depth -= 1,
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        let memory = memory?;
                        let page = 1_u64 << memory.page_size_log2.unwrap_or(16);
                        let bytes = memory.initial.saturating_mul(page);
                        shape.memory_bytes = shape.memory_bytes.saturating_add(bytes);
                    }
                }
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        shape.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        shape.exports.push(export?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(shape)
    }
}

fn is_served(export: &str) -> bool {
    let Some((name, version)) = export.split_once('@') else {
        return false;
    };
    EXPORTS
        .iter()
        .any(|(known, line)| name == *known && in_line(version, line))
}

fn is_there(import: &str) -> bool {
    let Some((name, version)) = import.split_once('@') else {
        return false;
    };
    let package = name.split('/').next().unwrap_or(name);
    PACKAGES
        .iter()
        .any(|(known, lines)| package == *known && lines.iter().any(|line| in_line(version, line)))
        || DRAFTS.contains(&(package, version))
}

/// Whether `version` is a release of `line`, such as 0.2.6 of 0.2.
fn in_line(version: &str, line: &str) -> bool {
    version
        .strip_prefix(line)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|c| c.is_ascii_digit()))
}

/// An import that brings nothing to call asks nothing of the host.
fn only_types(types: TypesRef<'_>, import: &str) -> bool {
    let Some(item) = types.component_item_for_import(import) else {
        return false;
    };
    match item.ty {
        ComponentEntityType::Type { .. } => true,
        ComponentEntityType::Instance(id) => types[id]
            .exports
            .values()
            .all(|export| matches!(export.ty, ComponentEntityType::Type { .. })),
        _ => false,
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests;
