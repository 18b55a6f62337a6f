//! A handler that behaves, alone and beside one that does its worst. Both have
//! as many connections; rounds alternate.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use crate::program::{Served, hello};
use crate::report::Report;
use crate::wrk::{self, Seen};

const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 4;

/// What a guest does with each request, as WebAssembly text.
const AGGRESSORS: [(&str, &str); 4] = [
    ("loop", "(loop $again (br $again))"),
    (
        "memory",
        "(loop $again (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $again))",
    ),
    ("fault", "unreachable"),
    (
        "log",
        r#"(local $stdout i32) (local.set $stdout (call $stdout))
        (memory.fill (i32.const 64) (i32.const 120) (i32.const 999))
        (i32.store8 (i32.const 1063) (i32.const 10))
        (loop $again (call $write (local.get $stdout) (i32.const 64) (i32.const 1000) (i32.const 0)) (br $again))"#,
    ),
];

/// Measures the handler alone and beside each aggressor.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut args = vec!["--route".to_owned(), format!("/good={}", hello()?)];
    for (name, code) in AGGRESSORS {
        let file = dir.path().join(format!("{name}.wasm"));
        std::fs::write(&file, wat::parse_str(component(code))?)?;
        args.extend(["--route".to_owned(), format!("/{name}={}", file.display())]);
    }
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let server = Served::edge_runtime(&args, "/good").await?;
    let good = format!("{}/good", server.url);
    let mut alone = Vec::new();
    let mut beside: [Vec<Seen>; AGGRESSORS.len()] = Default::default();
    for _ in 0..rounds {
        alone.push(wrk::load(&good, CONNECTIONS, SECONDS, None).await?);
        for ((name, _), seen) in AGGRESSORS.iter().zip(&mut beside) {
            let attack = attack(&format!("{}/{name}", server.url))?;
            seen.push(wrk::load(&good, CONNECTIONS, SECONDS, None).await?);
            drop(attack);
        }
    }
    tell("alone", &alone, report);
    for ((name, _), seen) in AGGRESSORS.iter().zip(&beside) {
        tell(&format!("beside {name}"), seen, report);
        let ratios = seen
            .iter()
            .zip(&alone)
            .map(|(seen, alone)| seen.p99_ms / alone.p99_ms);
        report.add(
            &format!("beside {name} to alone, p99"),
            "x",
            ratios.collect(),
        );
    }
    Ok(())
}

fn tell(what: &str, seen: &[Seen], report: &mut Report) {
    let of = |value: fn(&Seen) -> f64| seen.iter().map(value).collect::<Vec<_>>();
    report.add(&format!("hello {what}"), "requests/s", of(|s| s.rate));
    report.add(&format!("hello {what}, p50"), "ms", of(|s| s.p50_ms));
    report.add(&format!("hello {what}, p99"), "ms", of(|s| s.p99_ms));
}

/// Load on an aggressor until it is dropped; it answers with errors.
fn attack(url: &str) -> Result<Child> {
    Command::new("wrk")
        .args(["-t1", "-d1h", "-c", &CONNECTIONS.to_string(), url])
        .current_dir(Path::new("/"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("wrk cannot be started: install it with `apt-get install wrk`")
}

/// A component of wasi:http/proxy that runs `code` for each request.
fn component(code: &str) -> String {
    format!(
        r#"(component
  (import "wasi:io/error@0.2.0" (instance $error-i (export "error" (type (sub resource)))))
  (alias export $error-i "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams-i
    (alias outer 1 $error (type $e0))
    (export "error" (type $e (eq $e0)))
    (export "output-stream" (type $os (sub resource)))
    (type $se0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $se0)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $os)) (param "contents" (list u8)) (result (result (error $se)))))))
  (alias export $streams-i "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout-i
    (alias outer 1 $output-stream (type $os0))
    (export "output-stream" (type $os (eq $os0)))
    (export "get-stdout" (func (result (own $os))))))
  (import "wasi:http/types@0.2.0" (instance $http-i
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $http-i "incoming-request" (type $request))
  (alias export $http-i "response-outparam" (type $outparam))
  (core module $memory-m (memory (export "memory") 1))
  (core instance $memory (instantiate $memory-m))
  (alias core export $memory "memory" (core memory $mem))
  (alias export $stdout-i "get-stdout" (func $stdout))
  (alias export $streams-i "[method]output-stream.blocking-write-and-flush" (func $write))
  (core func $stdout-c (canon lower (func $stdout)))
  (core func $write-c (canon lower (func $write) (memory $mem)))
  (core module $m
    (import "h" "memory" (memory 1))
    (import "h" "stdout" (func $stdout (result i32)))
    (import "h" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "handle") (param i32 i32) {code}))
  (core instance $guest (instantiate $m (with "h" (instance
    (export "memory" (memory $mem)) (export "stdout" (func $stdout-c)) (export "write" (func $write-c))))))
  (type $handle-t (func (param "request" (own $request)) (param "response-out" (own $outparam))))
  (func $handle (type $handle-t) (canon lift (core func $guest "handle")))
  (component $face
    (import "request" (type $request (sub resource)))
    (import "outparam" (type $outparam (sub resource)))
    (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
    (export "handle" (func $handle)))
  (instance $handler (instantiate $face
    (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aggressor_is_a_component() {
        for (name, code) in AGGRESSORS {
            let bytes = wat::parse_str(component(code)).expect(name);
            assert_eq!(&bytes[..8], b"\0asm\x0d\0\x01\0", "{name}");
        }
    }
}
