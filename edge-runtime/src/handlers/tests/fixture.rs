//! Small components in text form, so that these tests need no toolchain for guests.

/// What the guest's code can call, as core imports.
const IMPORTS: &str = r#"
  (import "wasi:io/error@0.2.0" (instance $error-i
    (export "error" (type (sub resource)))))
  (alias export $error-i "error" (type $error))
  (import "wasi:io/poll@0.2.0" (instance $poll-i
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll-i "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock-i
    (alias outer 1 $pollable (type $p0))
    (export "pollable" (type $p (eq $p0)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:io/streams@0.2.0" (instance $streams-i
    (alias outer 1 $error (type $e0))
    (export "error" (type $e (eq $e0)))
    (export "output-stream" (type $os (sub resource)))
    (type $se0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $se0)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $os)) (param "contents" (list u8)) (result (result (error $se)))))))
  (alias export $streams-i "output-stream" (type $output-stream))
  (import "wasi:http/types@0.2.0" (instance $http-i
    (alias outer 1 $output-stream (type $os0))
    (export "output-stream" (type $os (eq $os0)))
    (type $dns0 (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns0)))
    (type $tls0 (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls (eq $tls0)))
    (type $fs0 (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $fs (eq $fs0)))
    (type $code0 (variant
      (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
      (case "destination-unavailable") (case "destination-IP-prohibited")
      (case "destination-IP-unroutable") (case "connection-refused") (case "connection-terminated")
      (case "connection-timeout") (case "connection-read-timeout") (case "connection-write-timeout")
      (case "connection-limit-reached") (case "TLS-protocol-error") (case "TLS-certificate-error")
      (case "TLS-alert-received" $tls) (case "HTTP-request-denied")
      (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid")
      (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $fs))
      (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $fs)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $fs) (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $fs)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
      (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $code (eq $code0)))
    (export "fields" (type $fields (sub resource)))
    (export "trailers" (type $trailers (eq $fields)))
    (export "headers" (type $headers (eq $fields)))
    (export "incoming-request" (type $request (sub resource)))
    (export "outgoing-body" (type $body (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "response-outparam" (type $out (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-response" (func (param "headers" (own $headers)) (result (own $response))))
    (export "[method]outgoing-response.body" (func (param "self" (borrow $response)) (result (result (own $body)))))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $body)) (result (result (own $os)))))
    (export "[static]outgoing-body.finish"
      (func (param "this" (own $body)) (param "trailers" (option (own $trailers))) (result (result (error $code)))))
    (export "[static]response-outparam.set"
      (func (param "param" (own $out)) (param "response" (result (own $response) (error $code)))))))
  (alias export $http-i "incoming-request" (type $request))
  (alias export $http-i "response-outparam" (type $outparam))

  (core module $memory-m (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $free)
      (global.set $free (i32.and (i32.const -8) (i32.add (global.get $free) (i32.add (local.get 3) (i32.const 7)))))))
  (core instance $memory (instantiate $memory-m))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (alias export $poll-i "[method]pollable.block" (func $block))
  (alias export $clock-i "subscribe-duration" (func $timer))
  (alias export $streams-i "[method]output-stream.blocking-write-and-flush" (func $write))
  (alias export $http-i "[constructor]fields" (func $fields))
  (alias export $http-i "[constructor]outgoing-response" (func $response))
  (alias export $http-i "[method]outgoing-response.body" (func $body))
  (alias export $http-i "[method]outgoing-body.write" (func $stream))
  (alias export $http-i "[static]outgoing-body.finish" (func $finish))
  (alias export $http-i "[static]response-outparam.set" (func $set))
  (core func $block-c (canon lower (func $block)))
  (core func $timer-c (canon lower (func $timer)))
  (core func $write-c (canon lower (func $write) (memory $mem)))
  (core func $fields-c (canon lower (func $fields)))
  (core func $response-c (canon lower (func $response)))
  (core func $body-c (canon lower (func $body) (memory $mem)))
  (core func $stream-c (canon lower (func $stream) (memory $mem)))
  (core func $finish-c (canon lower (func $finish) (memory $mem) (realloc $realloc)))
  (core func $set-c (canon lower (func $set) (memory $mem)))
  (core func $drop-stream-c (canon resource.drop $output-stream))
"#;

/// The core module: the imports once more, then helpers, then the handler.
const MODULE: &str = r#"
  (import "h" "memory" (memory 1))
  (import "h" "block" (func $block (param i32)))
  (import "h" "timer" (func $timer (param i64) (result i32)))
  (import "h" "write" (func $write (param i32 i32 i32 i32)))
  (import "h" "fields" (func $fields (result i32)))
  (import "h" "response" (func $response (param i32) (result i32)))
  (import "h" "body" (func $body (param i32 i32)))
  (import "h" "stream" (func $stream (param i32 i32)))
  (import "h" "finish" (func $finish (param i32 i32 i32 i32)))
  (import "h" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "h" "drop-stream" (func $drop-stream (param i32)))
  (data (i32.const 1024) "hello from a component")
  (global $body-h (mut i32) (i32.const 0))
  (global $stream-h (mut i32) (i32.const 0))
  (global $calls (mut i32) (i32.const 0))
  ;; Sends the head and opens the body.
  (func $begin (param $out i32)
    (local $r i32)
    (local.set $r (call $response (call $fields)))
    (call $body (local.get $r) (i32.const 16))
    (global.set $body-h (i32.load (i32.const 20)))
    (call $set (local.get $out) (i32.const 0) (local.get $r) (i32.const 0) (i64.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $stream (global.get $body-h) (i32.const 16))
    (global.set $stream-h (i32.load (i32.const 20))))
  ;; Sends the first bytes of the text.
  (func $send (param $len i32)
    (call $write (global.get $stream-h) (i32.const 1024) (local.get $len) (i32.const 32)))
  ;; Ends the body.
  (func $end
    (call $drop-stream (global.get $stream-h))
    (call $finish (global.get $body-h) (i32.const 0) (i32.const 0) (i32.const 64)))
  (func $wait-ms (param $ms i64)
    (call $block (call $timer (i64.mul (local.get $ms) (i64.const 1000000)))))
"#;

const EXPORTS: &str = r#"
  (core instance $guest (instantiate $m (with "h" (instance
    (export "memory" (memory $mem))
    (export "block" (func $block-c)) (export "timer" (func $timer-c))
    (export "write" (func $write-c)) (export "fields" (func $fields-c))
    (export "response" (func $response-c)) (export "body" (func $body-c))
    (export "stream" (func $stream-c)) (export "finish" (func $finish-c))
    (export "set" (func $set-c)) (export "drop-stream" (func $drop-stream-c))))))
  (type $handle-t (func (param "request" (own $request)) (param "response-out" (own $outparam))))
  (func $handle (type $handle-t) (canon lift (core func $guest "handle")))
  (component $face
    (import "request" (type $request (sub resource)))
    (import "outparam" (type $outparam (sub resource)))
    (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
    (export "handle" (func $handle)))
  (instance $handler (instantiate $face
    (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler))
"#;

/// A component whose handler runs `code`, with the request in local 0 and the
/// response-outparam in local 1.
pub(super) fn component(code: &str) -> Vec<u8> {
    component_with("", code)
}

/// The same with more imports in the component.
pub(super) fn component_with(more_imports: &str, code: &str) -> Vec<u8> {
    let text = format!(
        "(component {more_imports} {IMPORTS} (core module $m {MODULE} (func (export \"handle\") (param i32 i32) {code})) {EXPORTS})"
    );
    wat::parse_str(text).expect("the fixture is valid")
}

/// Answers with the text.
pub(super) const HELLO: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 22)) (call $end)";
/// Answers with how often this instance was called, as a letter.
pub(super) const COUNT: &str = r#"
    (i32.store8 (i32.const 1024) (i32.add (i32.const 65) (global.get $calls)))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $begin (local.get 1)) (call $send (i32.const 1)) (call $end)"#;
/// Stops with a fault at once.
pub(super) const TRAP: &str = "unreachable";
/// Computes without end.
pub(super) const SPIN: &str = "(loop $again (br $again))";
/// Takes memory until it gets no more.
pub(super) const HOG: &str = r#"
    (loop $again
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (br $again))"#;
/// Ends without an answer.
pub(super) const SILENT: &str = "";
/// Waits for ten minutes.
pub(super) const SLEEP: &str = "(call $wait-ms (i64.const 600000))";
/// Waits a little, then answers.
pub(super) const SLOW: &str = r#"(call $wait-ms (i64.const 300))
    (call $begin (local.get 1)) (call $send (i32.const 22)) (call $end)"#;
/// Stops with a fault in the middle of its body, after a wait, so that the head is out.
pub(super) const CUT: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 5))
    (call $wait-ms (i64.const 50)) unreachable"#;
/// Stops with a fault in the middle of its body at once.
pub(super) const CUT_EARLY: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 5)) unreachable";
/// Stops with a fault when its answer is complete.
pub(super) const LATE_TRAP: &str =
    "(call $begin (local.get 1)) (call $send (i32.const 22)) (call $end) unreachable";
/// Sends its text in two parts with a wait between.
pub(super) const STREAM: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 5))
    (call $wait-ms (i64.const 50)) (call $send (i32.const 22)) (call $end)"#;
/// Works on after its answer is complete.
pub(super) const AFTERWORK: &str = r#"(call $begin (local.get 1)) (call $send (i32.const 22))
    (call $end) (call $wait-ms (i64.const 100))"#;

/// A stream processor that answers each batch with one output: to stream
/// `alerts`, the value of the batch's first record.
pub(super) fn processor() -> Vec<u8> {
    let text = r#"(component
  (import "edge:runtime/records@0.1.0" (instance $r
    (type $enc0 (enum "json" "cbor" "bytes"))
    (export "encoding" (type $enc (eq $enc0)))
    (type $rec0 (record (field "sequence" u64) (field "time-ms" u64) (field "encoding" $enc) (field "value" (list u8))))
    (export "record" (type $rec (eq $rec0)))
    (type $out0 (record (field "stream" string) (field "encoding" $enc) (field "value" (list u8))))
    (export "output" (type $out (eq $out0)))))
  (alias export $r "record" (type $rec))
  (alias export $r "output" (type $out))
  (core module $m
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 4096))
    (data (i32.const 64) "alerts")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $free (i32.and (i32.const -8) (i32.add (global.get $free) (i32.const 7))))
      (global.get $free)
      (global.set $free (i32.add (global.get $free) (local.get 3))))
    (func (export "process") (param i32 i32 i32 i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (i32.const 32))
      (i32.store (i32.const 24) (i32.const 1))
      (i32.store (i32.const 32) (i32.const 64))
      (i32.store (i32.const 36) (i32.const 6))
      (i32.store8 (i32.const 40) (i32.load8_u (i32.add (local.get 2) (i32.const 16))))
      (i32.store (i32.const 44) (i32.load (i32.add (local.get 2) (i32.const 20))))
      (i32.store (i32.const 48) (i32.load (i32.add (local.get 2) (i32.const 24))))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (type $process-t (func (param "stream" string) (param "batch" (list $rec)) (result (result (list $out) (error string)))))
  (func $process (type $process-t)
    (canon lift (core func $i "process") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (alias export $r "encoding" (type $enc))
  (component $face
    (type $enc0 (enum "json" "cbor" "bytes"))
    (import "encoding" (type $enc (eq $enc0)))
    (type $rec0 (record (field "sequence" u64) (field "time-ms" u64) (field "encoding" $enc) (field "value" (list u8))))
    (import "record" (type $rec (eq $rec0)))
    (type $out0 (record (field "stream" string) (field "encoding" $enc) (field "value" (list u8))))
    (import "output" (type $out (eq $out0)))
    (import "process" (func $process (param "stream" string) (param "batch" (list $rec)) (result (result (list $out) (error string)))))
    (export "process" (func $process)))
  (instance $face-i (instantiate $face
    (with "encoding" (type $enc)) (with "record" (type $rec)) (with "output" (type $out)) (with "process" (func $process))))
  (export "edge:runtime/process@0.1.0" (instance $face-i)))"#;
    wat::parse_str(text).expect("the fixture is valid")
}
