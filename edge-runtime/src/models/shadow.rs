//! Candidates: versions that run on copies of the requests to the version that serves. Their outputs are compared and
//! never sent.
//!
//! ```text
//! request -> serving version -> answer
//!                  | offer: inputs and outputs, shared, if the candidate's share of a core allows
//!                  v
//!            one thread of lowest priority -> candidate -> compare -> figures
//! ```
//!
//! A candidate takes none of the cores' permits: whatever it does, the next live request begins at once, and the
//! system gives the processor to that first. What the thread cannot take in is skipped and counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fleet_api::health::ShadowHealth;
use fleet_api::ids::Version;
use rustix::time::{ClockId, clock_gettime};

use super::InferRequest;
use super::backend::Interrupt;
use super::compare::{compare, numbers};
use super::pool::LoadedModel;
use super::tensor::{DataType, Tensor};

/// Copies that wait for the thread; they hold their tensors in memory.
const WAITING: usize = 8;

/// How much unused share a candidate can save up, as time.
const SAVED: Duration = Duration::from_secs(2);

/// A last dimension up to this long is taken for the scores of classes.
const CLASSES: usize = 4096;

const NICE: i32 = 19;

/// A candidate beside the version that serves.
pub(crate) struct Mirror {
    candidate: Arc<LoadedModel>,
    /// The version that serves.
    of: Version,
    /// Share of one core.
    cpu: f64,
    tolerance: f64,
    pub(crate) figures: Figures,
    state: Mutex<MirrorState>,
}

struct MirrorState {
    /// Processor time that it may still use, in seconds; below zero after a long run.
    allowance: f64,
    filled: Instant,
    outputs: BTreeMap<String, Distribution>,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) mirrored: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) exact: AtomicU64,
    pub(crate) within: AtomicU64,
    pub(crate) top1: AtomicU64,
    /// Processor time of its runs.
    pub(crate) cpu_us: AtomicU64,
    /// Bits of the largest difference; non-negative doubles are ordered like their bits.
    max_abs_bits: AtomicU64,
}

/// A request that the serving version has answered; its data is shared with request and answer.
struct Copied {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

type Copies = SyncSender<(Arc<Mirror>, Arc<Copied>)>;

/// The thread that candidates run on; it ends when this is dropped.
pub(crate) struct ShadowThread(Copies);

impl ShadowThread {
    pub(crate) fn start() -> ShadowThread {
        let (sender, receiver) = sync_channel(WAITING);
        let spawned = std::thread::Builder::new()
            .name("shadow".into())
            .spawn(move || work(&receiver));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for shadow runs; all are skipped");
        }
        ShadowThread(sender)
    }
}

/// All candidates beside one version.
pub(crate) struct Mirrors {
    pub(crate) all: Vec<Arc<Mirror>>,
    copies: Copies,
}

/// The inputs of a request, and who wants them.
pub(crate) struct Wanted {
    by: Vec<Arc<Mirror>>,
    inputs: Vec<Tensor>,
}

impl Mirrors {
    pub(crate) fn new(all: Vec<Arc<Mirror>>, thread: &ShadowThread) -> Mirrors {
        Mirrors {
            all,
            copies: thread.0.clone(),
        }
    }

    /// Keeps a request's inputs for the candidates whose share has room for them.
    pub(crate) fn copy(&self, request: &InferRequest) -> Option<Wanted> {
        let by: Vec<_> = self
            .all
            .iter()
            .filter(|mirror| mirror.has_room())
            .cloned()
            .collect();
        (!by.is_empty()).then(|| Wanted {
            by,
            inputs: request.inputs.clone(),
        })
    }

    /// Hands inputs and outputs to the thread, unless it has too many already.
    pub(crate) fn offer(&self, wanted: Wanted, outputs: &[Tensor]) {
        let copied = Arc::new(Copied {
            inputs: wanted.inputs,
            outputs: outputs.to_vec(),
        });
        for mirror in wanted.by {
            if let Err(full) = self.copies.try_send((mirror, Arc::clone(&copied))) {
                let (TrySendError::Full((mirror, _)) | TrySendError::Disconnected((mirror, _))) =
                    full;
                mirror.figures.skipped.fetch_add(1, Relaxed);
            }
        }
    }
}

fn work(copies: &Receiver<(Arc<Mirror>, Arc<Copied>)>) {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "shadow runs have the priority of live ones");
    }
    while let Ok((mirror, copied)) = copies.recv() {
        mirror.run(&copied);
    }
}

impl Mirror {
    /// None if the candidate's options do not make it one.
    pub(crate) fn new(candidate: &Arc<LoadedModel>, of: &Version) -> Option<Arc<Mirror>> {
        let rule = candidate.options.shadow.as_ref()?;
        let state = MirrorState {
            allowance: 0.0,
            filled: Instant::now(),
            outputs: BTreeMap::new(),
        };
        Some(Arc::new(Mirror {
            candidate: Arc::clone(candidate),
            of: of.clone(),
            cpu: rule.cpu,
            tolerance: rule.tolerance,
            figures: Figures::default(),
            state: Mutex::new(state),
        }))
    }

    /// Whether it is about this candidate.
    pub(crate) fn is_of(&self, candidate: &Arc<LoadedModel>) -> bool {
        Arc::ptr_eq(&self.candidate, candidate)
    }

    /// The version that it is compared with.
    pub(crate) fn of(&self) -> &Version {
        &self.of
    }

    /// Whether the candidate's share has room for another request; counts it as skipped otherwise.
    fn has_room(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let passed = now - state.filled;
        state.filled = now;
        let most = SAVED.as_secs_f64() * self.cpu;
        state.allowance = (state.allowance + passed.as_secs_f64() * self.cpu).min(most);
        let room = state.allowance > 0.0;
        if !room {
            self.figures.skipped.fetch_add(1, Relaxed);
        }
        room
    }

    fn run(&self, copied: &Copied) {
        let candidate = &self.candidate;
        let borrowed = candidate.scheduler.dispatch().borrow(candidate.lane);
        let Some(mut session) = borrowed else {
            // Somebody asks for the candidate by its version, or it is not in memory.
            self.figures.skipped.fetch_add(1, Relaxed);
            return;
        };
        let begun = clock_gettime(ClockId::ThreadCPUTime);
        let interrupt = Arc::new(Interrupt::default());
        let deadline = Instant::now() + candidate.options.timeout.duration();
        let watched = candidate.scheduler.watch(deadline, Arc::clone(&interrupt));
        let wanted: Vec<&str> = copied
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        let ran = session.run(&copied.inputs, &wanted, Some(&interrupt));
        drop(watched);
        candidate
            .scheduler
            .dispatch()
            .give_back(candidate.lane, session);
        candidate.scheduler.begin_ready();
        match ran {
            Ok(ran) => self.judge(&copied.outputs, &ran.outputs),
            Err(error) => {
                self.figures.failed.fetch_add(1, Relaxed);
                tracing::debug!(model = %candidate.name, version = %candidate.version, %error, "a shadow run failed");
            }
        }
        self.figures.mirrored.fetch_add(1, Relaxed);
        let ended = clock_gettime(ClockId::ThreadCPUTime);
        let used = Duration::try_from(ended)
            .unwrap_or_default()
            .saturating_sub(Duration::try_from(begun).unwrap_or_default());
        self.figures
            .cpu_us
            .fetch_add(u64::try_from(used.as_micros()).unwrap_or(0), Relaxed);
        self.state().allowance -= used.as_secs_f64();
    }

    fn judge(&self, serving: &[Tensor], candidate: &[Tensor]) {
        let (mut exact, mut within, mut top1) = (true, true, true);
        let mut state = self.state();
        for (expected, got) in serving.iter().zip(candidate) {
            if let Some(difference) = compare(expected, got, self.tolerance) {
                exact &= difference.exact;
                within &= difference.within;
                let bits = difference.max_abs.to_bits();
                self.figures.max_abs_bits.fetch_max(bits, Relaxed);
            } else {
                (exact, within) = (false, false);
            }
            let (of, by) = (winners(expected), winners(got));
            top1 &= of == by;
            if !state.outputs.contains_key(&expected.name) {
                state
                    .outputs
                    .insert(expected.name.clone(), Distribution::default());
            }
            if let Some(distribution) = state.outputs.get_mut(&expected.name) {
                distribution.serving.take_in(expected, of.as_deref());
                distribution.candidate.take_in(got, by.as_deref());
            }
        }
        for (counter, holds) in [
            (&self.figures.exact, exact),
            (&self.figures.within, within),
            (&self.figures.top1, top1),
        ] {
            counter.fetch_add(u64::from(holds), Relaxed);
        }
    }

    /// How far the outputs' distributions are apart: of scores of classes, the share of requests by which the winners'
    /// frequencies differ (total variation, 0 to 1); of other numbers, the distance of the means in standard deviations
    /// of the serving version's. The largest over all outputs.
    pub(crate) fn drift(&self) -> f64 {
        let state = self.state();
        state
            .outputs
            .values()
            .map(Distribution::drift)
            .fold(0.0, f64::max)
    }

    pub(crate) fn max_abs_diff(&self) -> f64 {
        f64::from_bits(self.figures.max_abs_bits.load(Relaxed))
    }

    pub(crate) fn health(&self) -> ShadowHealth {
        let figures = &self.figures;
        ShadowHealth {
            of: self.of.clone(),
            mirrored: figures.mirrored.load(Relaxed),
            skipped: figures.skipped.load(Relaxed),
            failed: figures.failed.load(Relaxed),
            exact: figures.exact.load(Relaxed),
            within_tolerance: figures.within.load(Relaxed),
            top1_agree: figures.top1.load(Relaxed),
            // JSON has no infinity.
            max_abs_diff: self.max_abs_diff().min(f64::MAX),
            drift: self.drift().min(f64::MAX),
        }
    }

    fn state(&self) -> MutexGuard<'_, MirrorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What both versions gave for one output.
#[derive(Debug, Default)]
struct Distribution {
    serving: Values,
    candidate: Values,
}

#[derive(Debug, Default)]
struct Values {
    /// How often each class won.
    winners: BTreeMap<usize, u64>,
    /// Of outputs that are no scores: number, mean, and sum of squared distances from it (Welford's method).
    count: f64,
    mean: f64,
    squares: f64,
}

impl Values {
    fn take_in(&mut self, tensor: &Tensor, winners: Option<&[usize]>) {
        if let Some(winners) = winners {
            winners
                .iter()
                .for_each(|class| *self.winners.entry(*class).or_default() += 1);
            return;
        }
        for number in numbers(tensor)
            .into_iter()
            .flatten()
            .filter(|number| number.is_finite())
        {
            self.count += 1.0;
            let off = number - self.mean;
            self.mean += off / self.count;
            self.squares += off * (number - self.mean);
        }
    }
}

impl Distribution {
    fn drift(&self) -> f64 {
        let (a, b) = (&self.serving, &self.candidate);
        if !a.winners.is_empty() {
            let sum = |values: &Values| values.winners.values().sum::<u64>().max(1) as f64;
            let share = |values: &Values, class: &usize| {
                values
                    .winners
                    .get(class)
                    .map_or(0.0, |n| *n as f64 / sum(values))
            };
            let classes: std::collections::BTreeSet<_> =
                a.winners.keys().chain(b.winners.keys()).collect();
            return classes
                .into_iter()
                .map(|class| (share(a, class) - share(b, class)).abs())
                .sum::<f64>()
                / 2.0;
        }
        let apart = (a.mean - b.mean).abs();
        let deviation = (a.squares / a.count.max(1.0)).sqrt();
        match (apart == 0.0, deviation == 0.0) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => apart / deviation,
        }
    }
}

/// The class with the highest score in each row; none if the last dimension cannot be scores of classes.
fn winners(tensor: &Tensor) -> Option<Vec<usize>> {
    let classes = usize::try_from(*tensor.shape.last()?).ok()?;
    let scores = matches!(
        tensor.datatype,
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64
    );
    if !scores || !(2..=CLASSES).contains(&classes) {
        return None;
    }
    let scores: Vec<f64> = numbers(tensor)?.collect();
    let winner = |row: &[f64]| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(class, _)| class)
    };
    Some(scores.chunks_exact(classes).map(winner).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[i64], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor {
            name: "y".into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: data.into(),
        }
    }

    #[test]
    fn the_winner_of_each_row_is_its_highest_score() {
        let scores = floats(&[2, 3], &[0.1, 0.7, 0.2, 5.0, -1.0, 4.0]);
        assert_eq!(winners(&scores), Some(vec![1, 0]));
        assert_eq!(winners(&floats(&[3, 1], &[1.0, 2.0, 3.0])), None);
    }

    #[test]
    fn drift_tells_how_far_distributions_are_apart() {
        let mut classes = Distribution::default();
        for (serving, candidate) in [(0, 0), (0, 1), (1, 1), (1, 1)] {
            classes
                .serving
                .take_in(&floats(&[1, 2], &[0.0; 2]), Some(&[serving]));
            classes
                .candidate
                .take_in(&floats(&[1, 2], &[0.0; 2]), Some(&[candidate]));
        }
        assert_eq!(classes.drift(), 0.25);
        let mut numbers = Distribution::default();
        numbers
            .serving
            .take_in(&floats(&[4], &[1.0, 3.0, 1.0, 3.0]), None);
        numbers
            .candidate
            .take_in(&floats(&[4], &[2.0, 4.0, 2.0, 4.0]), None);
        assert_eq!(numbers.drift(), 1.0);
        assert_eq!(Distribution::default().drift(), 0.0);
    }
}
