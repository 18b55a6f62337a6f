use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use fleet_tests::{Checkout, Edge};

/// Pictures as cameras would take them.
#[derive(Debug)]
pub(crate) struct Pictures(Vec<(PathBuf, Vec<u8>)>);

impl Pictures {
    /// Reads all pictures that set-up brought.
    pub(crate) fn load() -> Result<Self> {
        let mut paths: Vec<_> = std::fs::read_dir(Checkout::artifact("data")?)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.retain(|p| {
            p.extension()
                .is_some_and(|e| e == "png" || e == "jpg" || e == "jpeg")
        });
        paths.sort();
        anyhow::ensure!(
            !paths.is_empty(),
            "artifacts/data holds no picture: run `cargo xtask setup`"
        );
        let read = |path: PathBuf| Ok((path.clone(), std::fs::read(path)?));
        Ok(Self(paths.into_iter().map(read).collect::<Result<_>>()?))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Sends every picture to a node; answers the times in milliseconds, sorted.
    pub(crate) async fn show_to(&self, edge: &Edge) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for (path, picture) in &self.0 {
            let png = path.extension().is_some_and(|e| e == "png");
            let media_type = if png { "image/png" } else { "image/jpeg" };
            let start = Instant::now();
            let (status, body) = edge.post("/inspect", media_type, picture.clone()).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let verdict = || -> Option<()> {
                let body: serde_json::Value = serde_json::from_str(&body).ok()?;
                (status == 200 && body.is_object()).then_some(())
            };
            verdict().with_context(|| {
                format!(
                    "{} judges {} with {status}: {body}",
                    edge.id(),
                    path.display()
                )
            })?;
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}
