#![no_main]

use std::sync::OnceLock;

use edge_runtime::fuzzing::Preparation;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static NODE: OnceLock<(TempDir, Preparation)> = OnceLock::new();

fuzz_target!(|component: &[u8]| {
    let (_, node) = NODE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node = Preparation::new(dir.path().to_owned());
        (dir, node)
    });
    node.prepare(component);
});
