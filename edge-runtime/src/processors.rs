//! Handlers that work on streams: one task per stream hands its records to its
//! processor in batches, in order, and commits the outputs with the progress.
//!
//! ```text
//!  buffer ── batch from the cursor ──► handler ── outputs, values ──► one commit with the cursor
//!     ▲                                   │ it fails 5 times: narrowed down to the record at fault
//!     └── a letter in <stream>.dead ◄─────┘
//! ```
//!
//! A commit that finds no room waits, and so do the records behind it: a full
//! stream is felt along the chain of processors down to the device.

mod dead_letters;
mod figures;
mod pace;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet_api::artifact::Reference;
use fleet_api::desired::StreamSpec;
use fleet_api::health::ProcessorHealth;
use fleet_api::ids::StreamName;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::handlers::Handlers;
use crate::streams::Streams;

pub(crate) use dead_letters::with_dead_letters;
pub(crate) use figures::render_metrics;

use figures::Figures;
use work::Work;

type Plan = BTreeMap<StreamName, Reference>;

/// The processors of all streams, as the desired state has them.
#[derive(Clone)]
pub struct Processors {
    plan: Arc<watch::Sender<Plan>>,
    figures: Arc<Figures>,
}

impl Processors {
    /// Processors that do nothing until [`Processors::configure`]; [`run`] does their work.
    #[expect(
        clippy::new_without_default,
        reason = "a processor set without its task is no default"
    )]
    pub fn new() -> Self {
        Self {
            plan: Arc::new(watch::Sender::new(Plan::new())),
            figures: Arc::default(),
        }
    }

    /// Starts the processors of `streams` from where each has got to; those of before end
    /// at the end of their batch.
    pub fn configure(&self, streams: &[StreamSpec]) {
        let plan = streams
            .iter()
            .filter_map(|s| Some((s.name.clone(), s.processor.clone()?)))
            .collect();
        self.plan.send_if_modified(|current| {
            let changes = *current != plan;
            *current = plan;
            changes
        });
    }

    /// Figures of each stream that has a processor.
    pub fn health(&self, streams: &Streams) -> Vec<ProcessorHealth> {
        let plan = self.plan.borrow().clone();
        let health = plan.iter().map(|(stream, processor)| {
            let cursor = streams.cursor(processor.name.as_str(), stream.as_str());
            let held = streams.held(stream.as_str()).unwrap_or(1..1);
            // What was evicted before it was processed is no work any more.
            let done = cursor.max(held.start.saturating_sub(1));
            let lag = held.end.saturating_sub(done + 1);
            self.figures.health(stream, processor, lag)
        });
        health.collect()
    }
}

/// Runs the processors until `stop`; each plan's tasks end before the next plan's begin.
pub async fn run(
    processors: Processors,
    handlers: Handlers,
    streams: Streams,
    stop: CancellationToken,
) {
    let mut plan = processors.plan.subscribe();
    loop {
        let current = plan.borrow_and_update().clone();
        let round = stop.child_token();
        let mut tasks = JoinSet::new();
        for (stream, processor) in current {
            let work = Work {
                stream,
                processor,
                handlers: handlers.clone(),
                streams: streams.clone(),
                figures: Arc::clone(&processors.figures),
                stop: round.clone(),
            };
            tasks.spawn(work.run());
        }
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            changed = plan.changed() => changed.is_err(),
        };
        round.cancel();
        while let Some(joined) = tasks.join_next().await {
            if let Err(error) = joined {
                tracing::error!(%error, "a processor's task has failed");
            }
        }
        if ended {
            return;
        }
    }
}
