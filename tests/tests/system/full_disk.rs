use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use fleet_tests::archive::{self, Audit};
use fleet_tests::{Device, until};

use crate::fixtures::{self, greeting};

const LIMIT: Duration = Duration::from_secs(30);

/// A small file system in memory, gone when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with a line that says so, where the system does not let us mount.
    fn mount(at: &Path, mib: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        let tried = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        match tried {
            Ok(output) if output.status.success() => Ok(Some(Self(at.to_owned()))),
            other => {
                eprintln!("SKIPPED: a small disk cannot be mounted here: {other:?}");
                Ok(None)
            }
        }
    }

    /// Takes all space but a little.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", &format!("of={}", path.display())])
            .output();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_full_disk_refuses_records_and_serves_on() -> Result<()> {
    let disk_dir = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&disk_dir.path().join("disk"), 256)? else {
        return Ok(());
    };
    let mut fleet = fleet_tests::Fleet::start().await?;
    // The node's folder lies on the small disk.
    std::os::unix::fs::symlink(&disk.0, fleet.dir().join("n1"))?;
    fleet
        .join("n1", &[])
        .await?
        .configure("[buffer]\nmin_free = \"4MiB\"");
    fleet.edge("n1")?.start().await?;
    fleet.push_handler("hello:1.0.0", "hello").await?;
    fleet.apply(fixtures::HELLO).await?;
    fleet.apply(fixtures::VIBRATION_STREAM).await?;
    fleet.committed().await?;
    let edge = &fleet.edges["n1"];
    let device = Device::new(
        format!("{}/streams/vibration", edge.url()),
        fixtures::series()?,
        5,
    )?;
    device.send_batch(0).await?;

    let filler = disk.fill();
    let said = until("a refusal", LIMIT, async || {
        match device.send_batch(5).await {
            Ok(()) => Err("it is taken".to_owned()),
            Err(error) => Ok(format!("{error:#}")),
        }
    })
    .await?;
    assert!(said.contains("507") || said.contains("503"), "{said}");
    assert!(said.contains("disk") || said.contains("space"), "{said}");
    assert_eq!(greeting(edge).await?, "one");

    std::fs::remove_file(filler)?;
    until("space again", LIMIT, async || {
        device.send_batch(10).await.map_err(|e| format!("{e:#}"))
    })
    .await?;
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        if audit.missing == 0 {
            Ok(audit)
        } else {
            Err(format!("{audit:?}"))
        }
    })
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_on_a_full_disk_with_what_it_has_kept_aside() -> Result<()> {
    let disk_dir = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&disk_dir.path().join("disk"), 256)? else {
        return Ok(());
    };
    let mut fleet = fleet_tests::Fleet::start().await?;
    std::os::unix::fs::symlink(&disk.0, fleet.dir().join("n1"))?;
    fleet
        .join("n1", &[])
        .await?
        .configure("[buffer]\nmin_free = \"64MiB\"\nballast = \"16MiB\"");
    fleet.edge("n1")?.start().await?;
    fleet.apply(fixtures::VIBRATION_STREAM).await?;
    fleet.committed().await?;
    let url = format!("{}/streams/vibration", fleet.edge("n1")?.url());
    let device = Device::new(url, fixtures::series()?, 5)?;
    // The control plane is away, so that the records wait on the full disk.
    fleet.control.kill()?;
    for batch in 0..20 {
        device.send_batch(batch * 5).await?;
    }
    fleet.edge("n1")?.stop().await?;
    let ballast = disk.0.join("buffer/ballast");
    assert_eq!(ballast.metadata()?.len(), 16 << 20, "space is kept aside");

    let filler = disk.fill();
    let edge = fleet.edge("n1")?;
    edge.start().await?;
    assert!(!ballast.exists(), "the space was given free");
    let said = device.send_batch(100).await.expect_err("no room");
    assert!(format!("{said:#}").contains("507"), "{said:#}");
    let (status, rows) = edge.get("/streams/vibration?from=1&limit=100").await?;
    assert_eq!((status, rows.lines().count()), (200, 100), "{rows}");

    std::fs::remove_file(filler)?;
    until("space again", LIMIT, async || {
        device.send_batch(100).await.map_err(|e| format!("{e:#}"))
    })
    .await?;
    fleet.control.restart().await?;
    let acknowledged = device.acknowledged().await;
    let data_dir = fleet.control.data_dir();
    let audit = until("all records in the archive", LIMIT, async || {
        let contents = archive::read(data_dir, "n1", "vibration").map_err(|e| format!("{e:#}"))?;
        let audit = Audit::of(&acknowledged, &contents);
        (audit.missing == 0)
            .then_some(audit)
            .ok_or_else(|| format!("{audit:?}"))
    })
    .await?;
    assert!(audit.is_exactly_once(), "{audit:?}");
    assert_eq!(audit.acknowledged, 105);
    fleet.finish().await
}
