use std::time::{Duration, Instant};

use fleet_api::artifact::PinnedArtifact;
use fleet_api::frame::Body;
use fleet_api::replay::{
    MOST_EXAMPLES, ReplayResult, ReplaySide, ReplaySpec, ReplayState, SideResult,
};
use tokio_util::sync::CancellationToken;

use super::compare::Comparison;
use crate::agent::{ArtifactStore, FetchError, Fetcher, PrepareError, Workload};
use crate::backoff::Backoff;
use crate::causes::chain;
use crate::handlers::{Apart, HandlerError, PreparedHandler, ProcessOutput, ProcessRecord};
use crate::keyvalue::KeyValue;
use crate::models::{Models, ModelsConfig};
use crate::streams::{AppendError, RangeReader, RecordRange, Row};

/// Most records in a batch, as in production.
const BATCH: usize = 256;
/// Shortest and longest wait before a fetch is tried again.
const FETCH_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// The wait while production leaves no instance free.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// What both sides may keep where the deployment grants less.
const FIRST_FAILURE_BYTES: usize = 2_000;

/// What a replay needs of the node.
#[derive(Clone)]
pub struct ReplayParts {
    /// Handlers, models and streams in production; read, never changed.
    pub workload: Workload,
    /// Artifacts on disk.
    pub store: ArtifactStore,
    /// The way to those that are not.
    pub fetcher: Fetcher,
    /// What handlers have kept, to be copied.
    pub keyvalue: KeyValue,
    /// How models are loaded that a replay brings.
    pub models: ModelsConfig,
}

/// Why a replay cannot be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error("fetch what the replay needs")]
    Fetch(#[from] FetchError),
    #[error("prepare {artifact}")]
    Prepare {
        artifact: Box<PinnedArtifact>,
        source: PrepareError,
    },
    #[error(transparent)]
    Stream(#[from] AppendError),
    #[error(
        "stream {stream} has no record in this range any more: the node holds {first} to {last}; give the stream a longer `keep`, or replay a later range"
    )]
    NothingHeld {
        stream: String,
        first: u64,
        last: u64,
    },
    #[error("stream {0} has no record in this range")]
    Nothing(String),
    #[error("{0}:{1} is no stream processor")]
    NoProcessor(String, String),
    #[error("it was taken back")]
    Cancelled,
}

/// One side while it runs.
struct Side {
    handler: PreparedHandler,
    result: SideResult,
    times_us: Vec<u32>,
}

/// Runs a replay; `tell` hears of its progress now and then.
pub(super) async fn run(
    parts: &ReplayParts,
    spec: &ReplaySpec,
    stop: &CancellationToken,
    tell: impl Fn(ReplayState, Option<ReplayResult>),
) -> Result<ReplayResult, ReplayError> {
    let work = async {
        tell(ReplayState::Preparing, None);
        let range = RecordRange {
            from: spec.range.from,
            to: spec.range.to,
            since_ms: spec.range.since_ms,
            until_ms: spec.range.until_ms,
        };
        let streams = &parts.workload.streams;
        // Looked at before anything is fetched: what is not there needs no preparation.
        let reader = streams.range(spec.stream.as_str(), range).await?;
        check_held(spec, &reader)?;
        let sides = [Some(&spec.candidate), spec.baseline.as_ref()];
        let artifacts = sides.into_iter().flatten().flat_map(artifacts_of);
        let _pinned = parts.store.pin(artifacts.clone().cloned().collect());
        for artifact in artifacts {
            fetch(parts, artifact).await?;
        }
        let candidate = prepare(parts, spec, &spec.candidate).await?;
        let baseline = match &spec.baseline {
            Some(side) => Some(prepare(parts, spec, side).await?),
            None => None,
        };
        let run = Run {
            spec,
            started: Instant::now(),
            comparison: Comparison::new(
                spec.options.tolerance,
                spec.options.examples.min(MOST_EXAMPLES) as usize,
            ),
            result: ReplayResult {
                of: reader.span(),
                ..ReplayResult::default()
            },
            candidate,
            baseline,
        };
        run.run(reader, &tell).await
    };
    tokio::select! {
        () = stop.cancelled() => Err(ReplayError::Cancelled),
        result = work => result,
    }
}

fn artifacts_of(side: &ReplaySide) -> impl Iterator<Item = &PinnedArtifact> + Clone {
    let models = side.models.iter().map(|model| &model.artifact);
    std::iter::once(&side.handler.artifact).chain(models)
}

fn check_held(spec: &ReplaySpec, reader: &RangeReader) -> Result<(), ReplayError> {
    if reader.span() > 0 {
        return Ok(());
    }
    let stream = spec.stream.to_string();
    let held = reader.held();
    if spec.range.from.or(spec.range.to).is_some() && !held.is_empty() {
        return Err(ReplayError::NothingHeld {
            stream,
            first: held.start,
            last: held.end - 1,
        });
    }
    Err(ReplayError::Nothing(stream))
}

async fn fetch(parts: &ReplayParts, artifact: &PinnedArtifact) -> Result<(), ReplayError> {
    let mut wait = Backoff::new(FETCH_WAIT.0, FETCH_WAIT.1);
    loop {
        match parts.fetcher.fetch_artifact(&parts.store, artifact).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() => {
                tracing::warn!(error = chain(&error), "fetch again for a replay");
                tokio::time::sleep(wait.next()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// An instance of a side apart from production: its own values, no way out.
async fn prepare(
    parts: &ReplayParts,
    spec: &ReplaySpec,
    side: &ReplaySide,
) -> Result<Side, ReplayError> {
    let workload = &parts.workload;
    let models = if side.models.is_empty() {
        None
    } else {
        let apart = Models::start(ModelsConfig {
            permits: 1,
            ..parts.models.clone()
        });
        let mut prepared = Vec::new();
        for wish in &side.models {
            let model = Workload::model_spec(wish, &parts.store).await;
            let model = match model {
                Ok(model) => apart.prepare(model).await.map_err(PrepareError::from),
                Err(error) => Err(error.into()),
            };
            prepared.push(model.map_err(failed(&wish.artifact))?);
        }
        apart.switch(prepared);
        Some(apart)
    };
    let artifact = &side.handler.artifact;
    let name = artifact.name.as_str();
    let keyvalue = if spec.options.copy_state {
        parts.keyvalue.copy_in_memory(name)
    } else {
        KeyValue::in_memory()
    };
    let apart = Apart { keyvalue, models };
    let handler = match workload.handler_spec(&side.handler, &parts.store).await {
        Ok(handler) => {
            let prepared = workload.handlers.prepare_apart(handler, apart).await;
            prepared.map_err(PrepareError::from)
        }
        Err(error) => Err(error.into()),
    };
    let handler = handler.map_err(failed(artifact))?;
    if !handler.is_processor() {
        let version = artifact.version.to_string();
        return Err(ReplayError::NoProcessor(name.to_owned(), version));
    }
    Ok(Side {
        result: SideResult {
            version: format!("{name}:{}", artifact.version),
            ..SideResult::default()
        },
        handler,
        times_us: Vec::new(),
    })
}

fn failed(artifact: &PinnedArtifact) -> impl FnOnce(PrepareError) -> ReplayError {
    let artifact = Box::new(artifact.clone());
    move |source| ReplayError::Prepare { artifact, source }
}

struct Run<'a> {
    spec: &'a ReplaySpec,
    started: Instant,
    comparison: Comparison,
    result: ReplayResult,
    candidate: Side,
    baseline: Option<Side>,
}

impl Run<'_> {
    async fn run(
        mut self,
        mut reader: RangeReader,
        tell: &impl Fn(ReplayState, Option<ReplayResult>),
    ) -> Result<ReplayResult, ReplayError> {
        tell(ReplayState::Running, Some(self.so_far()));
        let mut told = Instant::now();
        let mut batch: Vec<Row> = Vec::with_capacity(BATCH);
        if let Some((first, last)) = reader.released() {
            self.result.lost += last - first + 1;
        }
        'reading: loop {
            let frames = reader.next().await?;
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                if let Body::Gap(gap) = &frame.frame.body {
                    self.result.lost += gap.lost;
                }
                for row in reader.rows(frame) {
                    batch.push(row);
                    if batch.len() < BATCH {
                        continue;
                    }
                    self.batch(std::mem::take(&mut batch)).await;
                    if told.elapsed() >= TELL_EVERY {
                        tell(ReplayState::Running, Some(self.so_far()));
                        told = Instant::now();
                    }
                    if let Some(reason) = self.limit() {
                        self.result.cut_short = Some(reason);
                        break 'reading;
                    }
                }
            }
        }
        if !batch.is_empty() {
            self.batch(batch).await;
        }
        if self.result.records == 0 {
            return Err(ReplayError::Nothing(self.spec.stream.to_string()));
        }
        Ok(self.so_far())
    }

    /// Why nothing more is run, if so.
    fn limit(&self) -> Option<String> {
        let options = &self.spec.options;
        if self.result.records >= options.max_records {
            return Some(format!("after {} records, the most", options.max_records));
        }
        let limit = Duration::from_secs(options.max_seconds.into());
        (self.started.elapsed() >= limit)
            .then(|| format!("after {} s, the longest time", options.max_seconds))
    }

    /// Runs one batch on both sides and takes in the difference.
    async fn batch(&mut self, rows: Vec<Row>) {
        let left = self
            .spec
            .options
            .max_records
            .saturating_sub(self.result.records);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let records: Vec<_> = rows.into_iter().take(left).map(record).collect();
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return;
        };
        let result = &mut self.result;
        if result.batches == 0 {
            (result.first_seq, result.first_ms) = (first.sequence, first.time_ms);
        }
        (result.last_seq, result.last_ms) = (last.sequence, last.time_ms);
        result.records += records.len() as u64;
        result.batches += 1;
        let begun = Instant::now();
        let (stream, first) = (self.spec.stream.as_str(), first.sequence);
        let old = match &mut self.baseline {
            Some(side) => side.process(stream, records.clone()).await,
            None => Some(Vec::new()),
        };
        let new = self.candidate.process(stream, records).await;
        match (&self.baseline, old, new) {
            (None, _, Some(new)) => self.comparison.add(first, &new, &new),
            // Outputs of one side alone would all count as different for another's fault.
            (Some(_), Some(old), Some(new)) => self.comparison.add(first, &old, &new),
            _ => {}
        }
        // Half of one core at most: production comes first.
        tokio::time::sleep(begun.elapsed()).await;
    }

    fn so_far(&self) -> ReplayResult {
        let took = self.started.elapsed().as_millis();
        ReplayResult {
            candidate: self.candidate.so_far(),
            baseline: self.baseline.as_ref().map(Side::so_far),
            streams: self.comparison.streams.values().cloned().collect(),
            examples: self.comparison.examples.clone(),
            took_ms: u64::try_from(took).unwrap_or(u64::MAX),
            ..self.result.clone()
        }
    }
}

impl Side {
    /// The outputs of a batch; none if it failed.
    async fn process(
        &mut self,
        stream: &str,
        records: Vec<ProcessRecord>,
    ) -> Option<Vec<ProcessOutput>> {
        loop {
            let begun = Instant::now();
            match self.handler.process(stream, records.clone()).await {
                Ok(outputs) => {
                    let took = u32::try_from(begun.elapsed().as_micros());
                    self.times_us.push(took.unwrap_or(u32::MAX));
                    self.result.outputs += outputs.len() as u64;
                    return Some(outputs);
                }
                Err(HandlerError::Busy { .. }) => tokio::time::sleep(BUSY_WAIT).await,
                Err(error) => {
                    self.result.failed_batches += 1;
                    self.result.first_failure.get_or_insert_with(|| {
                        chain(&error).chars().take(FIRST_FAILURE_BYTES).collect()
                    });
                    return None;
                }
            }
        }
    }

    fn so_far(&self) -> SideResult {
        let mut times = self.times_us.clone();
        times.sort_unstable();
        let part = |per_cent: usize| {
            let at = (times.len() * per_cent).div_ceil(100).saturating_sub(1);
            times.get(at).copied().unwrap_or(0).into()
        };
        SideResult {
            p50_us: part(50),
            p99_us: part(99),
            max_us: part(100),
            ..self.result.clone()
        }
    }
}

fn record(row: Row) -> ProcessRecord {
    ProcessRecord {
        sequence: row.seq,
        time_ms: row.record.time_ms,
        encoding: row.record.encoding,
        value: row.record.value,
    }
}
