//! ONNX Runtime from 1.29 on reports usage to its maker unless told not to. A process of its own shows that it does not:
//! this test's program again, with an empty home and without the variables that would hide the fault.

use std::process::Command;

use super::*;

#[test]
fn the_library_leaves_no_file_and_opens_no_socket() {
    let home = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "models::tests::telemetry::probe",
            "--nocapture",
        ])
        .env_remove("CI")
        .env_remove("ORT_RUNNING_UNIT_TESTS")
        .env_remove("XDG_CACHE_HOME")
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("HOME", home.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr),
    );
    assert!(
        child.status.success() && out.contains("1 passed"),
        "{out}{err}"
    );
    let left: Vec<_> = std::fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind in the home folder: {left:?}");
}

#[test]
#[ignore = "run by the test above"]
fn probe() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let models = serving(ModelsConfig::default(), &["mlp"]).await;
        models
            .infer("mlp", None, request(vec![f32s("x", &[1, 64], &[1.0; 64])]))
            .await
            .unwrap();
        let is_inet = |line: &str| line.starts_with("inet") || line.contains("ESTAB");
        assert!(
            !sockets().iter().any(|line| is_inet(line)),
            "{:?}",
            sockets()
        );
        // Threads carry the names that this crate or the test's harness gave them; the library's own would not.
        let known = [
            "inference-",
            "models::",
            "tokio-",
            "edge_runtime",
            "model-unload",
            "main",
        ];
        let foreign: Vec<_> = threads()
            .into_iter()
            .filter(|name| !known.iter().any(|known| name.starts_with(known)))
            .collect();
        assert!(
            foreign.is_empty(),
            "threads of the library's own: {foreign:?}"
        );
    });
}

/// Internet sockets of this process.
fn sockets() -> Vec<String> {
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        if let Some(inode) = target.to_string_lossy().strip_prefix("socket:[") {
            inodes.push(inode.trim_end_matches(']').to_owned());
        }
    }
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let rows = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        let ours = rows.lines().filter(|row| {
            row.split_whitespace()
                .nth(9)
                .is_some_and(|i| inodes.iter().any(|j| i == j))
        });
        found.extend(ours.map(|row| format!("inet {table} {row}")));
    }
    found
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}
