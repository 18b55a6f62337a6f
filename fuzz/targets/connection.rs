#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use edge_runtime::fuzzing::Connections;
use libfuzzer_sys::fuzz_target;

static GATEWAY: OnceLock<Connections> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let guest = || Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/echo.wasm");
    GATEWAY
        .get_or_init(|| Connections::new(&guest()))
        .feed(bytes);
});
