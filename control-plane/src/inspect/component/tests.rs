use super::*;

fn component(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {body})")).expect("valid text")
}

const HANDLE: &str = r#"(core module $m (memory 3) (func (export "f")))
    (core instance $i (instantiate $m))
    (func $f (canon lift (core func $i "f")))
    (instance $h (export "handle" (func $f)))"#;

fn refusal(bytes: &[u8]) -> String {
    describe(bytes).expect_err("refused").to_string()
}

#[test]
fn describes_what_a_component_serves_and_uses() {
    let bytes = component(&format!(
        r#"(import "wasi:cli/environment@0.2.6" (instance (export "get" (func))))
        (import "wasi:nn/graph@0.2.0-rc-2024-10-28" (instance (export "load" (func))))
        {HANDLE} (export "wasi:http/incoming-handler@0.2.3" (instance $h))"#
    ));
    assert_eq!(
        describe(&bytes).expect("runs"),
        "serves wasi:http/incoming-handler@0.2.3; uses wasi:nn; needs at least 192KiB of memory"
    );
}

#[test]
fn takes_every_world_that_the_runtime_calls() {
    for export in [
        "wasi:http/incoming-handler@0.2.0",
        "wasi:http/handler@0.3.0",
        "edge:runtime/process@0.1.0",
    ] {
        let bytes = component(&format!("{HANDLE} (export \"{export}\" (instance $h))"));
        describe(&bytes).expect(export);
    }
    for export in [
        "wasi:http/incoming-handler@0.1.0",
        "wasi:http/incoming-handler@0.20.0",
        "wasi:cli/run@0.2.0",
    ] {
        let bytes = component(&format!("{HANDLE} (export \"{export}\" (instance $h))"));
        assert!(refusal(&bytes).contains(export), "{}", refusal(&bytes));
    }
    assert!(refusal(&component("")).contains("exports nothing"));
}

#[test]
fn names_every_missing_import() {
    let bytes = component(&format!(
        r#"(import "wasi:blobstore/container@0.2.0-draft" (instance (export "open" (func))))
        (import "acme:plc/read@1.0.0" (instance (export "read" (func))))
        (import "acme:plc/types@1.0.0" (instance (export "t" (type (sub resource)))))
        (import "wasi:config/store@0.2.0-rc.1" (instance (export "get" (func))))
        (import "naked" (func))
        {HANDLE} (export "wasi:http/incoming-handler@0.2.3" (instance $h))"#
    ));
    assert_eq!(
        refusal(&bytes),
        "the component imports what the runtime does not have: wasi:blobstore/container@0.2.0-draft, acme:plc/read@1.0.0, naked"
    );
}

#[test]
fn tells_core_modules_from_other_files() {
    let module = wat::parse_str("(module)").expect("valid text");
    assert!(refusal(&module).contains("core module"));
    assert!(refusal(b"\x7fELF").contains("not WebAssembly"));
    assert!(refusal(b"").contains("not WebAssembly"));
}

#[test]
fn refuses_damaged_components() {
    let whole = component(&format!(
        "{HANDLE} (export \"wasi:http/incoming-handler@0.2.3\" (instance $h))"
    ));
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        assert!(refusal(&whole[..cut]).contains("not valid"), "cut at {cut}");
    }
    for at in 8..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        let _ = describe(&changed);
    }
}

#[test]
fn memories_beyond_measure_are_summed() {
    let memories = "(core module (memory i64 0x1000000000000) (memory i64 0x1000000000000))";
    let bytes = component(&format!(
        "{memories} {HANDLE} (export \"wasi:http/incoming-handler@0.2.3\" (instance $h))"
    ));
    let words = describe(&bytes).expect("valid");
    assert!(
        words.ends_with("needs at least 18446744073709551615B of memory"),
        "{words}"
    );
}
