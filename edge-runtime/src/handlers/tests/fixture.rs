//! Small components in text form, so that these tests need no toolchain for guests.

pub(crate) mod calling;
pub(crate) mod hostile;
mod processor;
pub(crate) mod reflecting;
pub(crate) mod service;
mod world;

pub(super) use processor::processor;

/// A component whose handler runs `code`, with the request in local 0 and the
/// response-outparam in local 1.
pub(crate) fn component(code: &str) -> Vec<u8> {
    assembled("", "", code)
}

/// The same with more imports in the component.
pub(super) fn component_with(more_imports: &str, code: &str) -> Vec<u8> {
    assembled(more_imports, "", code)
}

/// The same with more in its core module: functions, memories, data.
pub(crate) fn component_of((items, code): (String, String)) -> Vec<u8> {
    assembled("", &items, &code)
}

fn assembled(imports: &str, items: &str, code: &str) -> Vec<u8> {
    wat::parse_str(world::text(imports, items, code)).expect("the fixture is valid")
}

/// `text` in the guest's memory.
fn data(at: usize, text: &str) -> String {
    let bytes: String = text.bytes().map(|b| format!("\\{b:02x}")).collect();
    format!("(data (i32.const {at}) \"{bytes}\")")
}

/// Answers with the text.
pub(crate) const HELLO: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 22)) (call $end)";
/// Answers with how often this instance was called, as a letter.
pub(crate) const COUNT: &str = r#"
    (i32.store8 (i32.const 1024) (i32.add (i32.const 65) (global.get $calls)))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $begin (local.get 1)) (call $send (i32.const 1)) (call $end)"#;
/// Answers the first call of this instance and no other.
pub(super) const ONCE: &str = r#"(if (global.get $calls) (then return))
    (global.set $calls (i32.const 1))
    (call $begin (local.get 1)) (call $send (i32.const 22)) (call $end)"#;
/// Stops with a fault at once.
pub(crate) const TRAP: &str = "unreachable";
/// Computes without end.
pub(crate) const SPIN: &str = "(loop $again (br $again))";
/// Takes memory until it gets no more.
pub(crate) const HOG: &str = r#"
    (loop $again
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (br $again))"#;
/// Ends without an answer.
pub(crate) const SILENT: &str = "";
/// Waits for ten minutes.
pub(crate) const SLEEP: &str = "(call $wait-ms (i64.const 600000))";
/// Waits a little, then answers.
pub(crate) const SLOW: &str = r#"(call $wait-ms (i64.const 300))
    (call $begin (local.get 1)) (call $send (i32.const 22)) (call $end)"#;
/// Stops with a fault in the middle of its body, after a wait, so that the head is out.
pub(crate) const CUT: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 5))
    (call $wait-ms (i64.const 50)) unreachable"#;
/// Stops with a fault in the middle of its body at once.
pub(crate) const CUT_EARLY: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 5)) unreachable";
/// Stops with a fault when its answer is complete.
pub(crate) const LATE_TRAP: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 22)) (call $end) unreachable";
/// Sends its text in two parts with a wait between.
pub(crate) const STREAM: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 5))
    (call $wait-ms (i64.const 50)) (call $send (i32.const 22)) (call $end)"#;
/// Works on after its answer is complete.
pub(crate) const AFTERWORK: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 22))
    (call $end) (call $wait-ms (i64.const 100))"#;
