use anyhow::Result;
use fleet_tests::archive::{self, Audit};
use fleet_tests::{Checkout, until};

use super::{LIMIT, NODES, Story};
use crate::load::Load;

impl Story {
    /// A new version of a handler while requests come in.
    pub(super) async fn update_under_load(&mut self) -> Result<String> {
        self.fleet.push_handler("hello:1.1.0", "hello").await?;
        let url = format!("{}/hello", self.fleet.edge("line-2")?.url());
        let load = Load::start(&url, 4)?;
        let (old, new) = ("hello from 1.0.0", "hello from 1.1.0");
        let some = |greeting: &'static str| {
            let load = &load;
            async move {
                until(&format!("200 times {greeting:?}"), LIMIT, async || {
                    let seen = load.so_far();
                    let count = seen.greetings.get(greeting).copied().unwrap_or(0);
                    if count >= 200 {
                        Ok(())
                    } else {
                        Err(format!("{:?}", seen.greetings))
                    }
                })
                .await
            }
        };
        some(old).await?;
        let file = std::fs::read_to_string(Checkout::root().join("examples/demo/hello.toml"))?;
        self.fleet.apply(&file.replace("1.0.0", "1.1.0")).await?;
        some(new).await?;
        self.fleet.committed().await?;
        let answers = load.stop().await;
        if let Some(failure) = answers.failed.first() {
            anyhow::bail!(
                "{} of {} requests failed, the first with: {failure}",
                answers.failed.len(),
                answers.good()
            );
        }
        anyhow::ensure!(
            answers.greetings.len() == 2,
            "unexpected answers: {:?}",
            answers.greetings
        );
        Ok(format!(
            "{} requests, none failed, {} by the old and {} by the new",
            answers.good(),
            answers.greetings[old],
            answers.greetings[new]
        ))
    }

    /// The end of all streams, and a count of the archive's files.
    pub(super) async fn count(&mut self) -> Result<String> {
        self.stop.cancel();
        while self.senders.join_next().await.is_some() {}
        let mut total = 0;
        let mut alerts = 0;
        for (id, device) in &self.devices {
            let acknowledged = device.acknowledged().await;
            let data_dir = self.fleet.control.data_dir();
            let audit = until(
                &format!("all records of {id} in the archive"),
                LIMIT,
                async || {
                    let contents =
                        archive::read(data_dir, id, "vibration").map_err(|e| format!("{e:#}"))?;
                    let audit = Audit::of(&acknowledged, &contents);
                    if audit.missing == 0 {
                        Ok(audit)
                    } else {
                        Err(format!("{audit:?}"))
                    }
                },
            )
            .await?;
            anyhow::ensure!(audit.is_exactly_once(), "{id}: {audit:?}");
            total += audit.acknowledged;
            alerts += archive::read(data_dir, id, "alerts")?.len();
        }
        Ok(format!(
            "{total} records on {} nodes, 0 missing, 0 double, 0 changed; {alerts} alerts",
            NODES.len()
        ))
    }
}
