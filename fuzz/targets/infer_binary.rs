#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    edge_runtime::fuzzing::infer_binary(body);
});
