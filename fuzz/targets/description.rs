#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|component: &[u8]| control_plane::fuzzing::describe_component(component));
