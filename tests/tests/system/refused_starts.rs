use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use fleet_tests::{Checkout, ControlPlane, Fleet, Process};

use crate::fixtures;

const LIMIT: Duration = Duration::from_secs(20);

/// The program must end with exit code 1 and all `words`.
async fn refuses(dir: &Path, program: &str, args: &[&str], words: &[&str]) -> Result<()> {
    let log = dir.join(format!("refused-{program}.log"));
    let _ = std::fs::remove_file(&log);
    let mut process = Process::start(program, &Checkout::program(program)?, args, &[], &log)?;
    let status = process.ended(LIMIT).await?;
    let said = process.output();
    assert_eq!(status.code(), Some(1), "{said}");
    for word in words {
        assert!(
            said.contains(word),
            "{program} should refuse with {word:?}: {said}"
        );
    }
    Ok(())
}

fn write(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_with_unknown_keys_are_refused_with_all_of_them() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let text = "data_dir = \"x\"\nlisten = \"127.0.0.1:0\"\nport = 1\n[buffer]\nqouta = \"1GiB\"\n";
    let node = write(dir.path(), "node.toml", text)?;
    let words = ["node.toml", "line 3: port", "line 5: buffer.qouta"];
    refuses(
        dir.path(),
        "edge-runtime",
        &["check-config", "--config", &node],
        &words,
    )
    .await?;
    refuses(
        dir.path(),
        "edge-runtime",
        &["run", "--config", &node],
        &words,
    )
    .await?;
    let text = "lisen = \"127.0.0.1:0\"\n[archive]\nflush = \"1s\"\n";
    let fleet = write(dir.path(), "fleet.toml", text)?;
    let words = ["fleet.toml", "line 1: lisen", "line 3: archive.flush"];
    refuses(
        dir.path(),
        "control-plane",
        &["serve", "--config", &fleet],
        &words,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    fleet.join("n1", &[]).await?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?.to_string();
    let data_dir = fleet.edges["n1"].data_dir().display().to_string();
    for (listen, admin) in [
        (taken.as_str(), "127.0.0.1:0"),
        ("127.0.0.1:0", taken.as_str()),
    ] {
        let text =
            format!("data_dir = {data_dir:?}\nlisten = {listen:?}\nadmin_listen = {admin:?}\n");
        let config = write(fleet.dir(), "taken.toml", &text)?;
        refuses(
            fleet.dir(),
            "edge-runtime",
            &["run", "--config", &config],
            &[&taken, "another process"],
        )
        .await?;
    }
    let new = fleet.dir().join("new").display().to_string();
    for (listen, mqtt) in [
        (taken.as_str(), "127.0.0.1:0"),
        ("127.0.0.1:0", taken.as_str()),
    ] {
        let args = [
            "serve",
            "--data-dir",
            &new,
            "--listen",
            listen,
            "--mqtt-listen",
            mqtt,
        ];
        refuses(
            fleet.dir(),
            "control-plane",
            &args,
            &[&taken, "another process"],
        )
        .await?;
    }
    let module = Checkout::module("hello")?.display().to_string();
    refuses(
        fleet.dir(),
        "edge-runtime",
        &["serve", "--listen", &taken, &module],
        &[&taken, "another process"],
    )
    .await?;
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_belongs_to_one_process_and_one_version() -> Result<()> {
    let mut fleet = fixtures::one_node().await?;
    let edge = fleet.edges["n1"].data_dir();
    let control = fleet.control.data_dir().to_owned();
    let text = format!(
        "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n",
        edge.display().to_string()
    );
    let config = write(fleet.dir(), "same.toml", &text)?;
    let run = ["run", "--config", &config];
    let folder = control.display().to_string();
    let serve = [
        "serve",
        "--data-dir",
        &folder,
        "--listen",
        "127.0.0.1:0",
        "--mqtt-listen",
        "127.0.0.1:0",
    ];
    let (edge_name, control_name) = (edge.display().to_string(), control.display().to_string());
    refuses(fleet.dir(), "edge-runtime", &run, &[&edge_name, "in use"]).await?;
    refuses(
        fleet.dir(),
        "control-plane",
        &serve,
        &[&control_name, "in use"],
    )
    .await?;

    fleet.edge("n1")?.stop().await?;
    fleet.control.stop().await?;
    let restored = [replace_version(&edge)?, replace_version(&control)?];
    refuses(
        fleet.dir(),
        "edge-runtime",
        &run,
        &[&edge_name, "77", "version"],
    )
    .await?;
    refuses(
        fleet.dir(),
        "control-plane",
        &serve,
        &[&control_name, "77", "version"],
    )
    .await?;
    for (path, text) in restored {
        std::fs::write(path, text)?;
    }
    fleet.control.restart().await?;
    fleet.edge("n1")?.start().await?;
    fleet.reaches("n1", "ok").await?;
    fleet.finish().await
}

/// Writes another version into a data folder; answers what was there.
fn replace_version(folder: &Path) -> Result<(std::path::PathBuf, String)> {
    let path = ["version", "VERSION"]
        .map(|n| folder.join(n))
        .into_iter()
        .find(|p| p.exists());
    let path = path.unwrap();
    let before = std::fs::read_to_string(&path)?;
    std::fs::write(&path, "77\n")?;
    Ok((path, before))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_somebody_else_is_left_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("thesis");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("chapter-1.tex"), "years of work")?;
    let name = folder.display().to_string();
    let serve = [
        "serve",
        "--data-dir",
        &name,
        "--listen",
        "127.0.0.1:0",
        "--mqtt-listen",
        "127.0.0.1:0",
    ];
    refuses(dir.path(), "control-plane", &serve, &[&name, "empty"]).await?;
    assert_eq!(std::fs::read_dir(&folder)?.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_a_foreign_control_plane_is_refused() -> Result<()> {
    let fleet = Fleet::start().await?;
    let other_dir = tempfile::tempdir()?;
    let mut other = ControlPlane::start(other_dir.path()).await?;
    let ca = other.ca().display().to_string();
    let said = fleet
        .edgectl
        .refused(["login", fleet.control.url(), "--token", "x", "--ca", &ca])
        .await?;
    assert!(said.contains("certificate"), "{said}");
    let ca = fleet.control.ca().display().to_string();
    let said = fleet
        .edgectl
        .refused([
            "login",
            fleet.control.url(),
            "--token",
            "wrong",
            "--ca",
            &ca,
        ])
        .await?;
    assert!(said.contains("token"), "{said}");
    // The earlier login still stands.
    fleet.edgectl.ok(["nodes"]).await?;
    other.stop().await?;
    fleet.finish().await
}
