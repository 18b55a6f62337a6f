//! Latency histograms: fixed buckets from one microsecond to 100 seconds, each at most a quarter wider than the one
//! before, so that a quantile is at most 25 % too high. Recording is one atomic addition to a bucket and one to the sum.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const STEPS: [u64; 14] = [
    100, 125, 150, 175, 200, 250, 300, 350, 400, 500, 600, 700, 800, 900,
];
const DECADES: usize = 8;
const BOUNDS: usize = STEPS.len() * DECADES + 1;

/// Upper bounds in nanoseconds, ascending; one more bucket takes what is above the last.
static BOUNDS_NS: [u64; BOUNDS] = bounds();

const fn bounds() -> [u64; BOUNDS] {
    let mut all = [0; BOUNDS];
    let mut scale = 10;
    let mut at = 0;
    while at < BOUNDS {
        all[at] = STEPS[at % STEPS.len()] * scale;
        at += 1;
        if at % STEPS.len() == 0 {
            scale *= 10;
        }
    }
    all
}

/// Counts of durations, for many threads at once.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_NS.partition_point(|bound| *bound < ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// The duration that a share `q` (0.0 to 1.0) of all recorded ones does not exceed; zero when there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        self.snapshot().quantile(q)
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// All durations added up.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Relaxed))
    }

    /// A copy of the counts, to ask several questions of or to compare with a later one.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Relaxed))
                .collect(),
            sum_ns: self.sum_ns.load(Relaxed),
        }
    }
}

/// A histogram's counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    counts: Box<[u64]>,
    sum_ns: u64,
}

impl Snapshot {
    /// What was recorded after `earlier`, a snapshot of the same histogram.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let counts = self
            .counts
            .iter()
            .zip(&earlier.counts)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        Snapshot {
            counts,
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// How many durations it holds.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// As [`Histogram::quantile`].
    pub fn quantile(&self, q: f64) -> Duration {
        let total = self.count();
        if total == 0 {
            return Duration::ZERO;
        }
        // The rank of the wanted one, counted from 1.
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(BOUNDS_NS[at.min(BOUNDS - 1)]);
            }
        }
        Duration::from_nanos(BOUNDS_NS[BOUNDS - 1])
    }

    /// Cumulative buckets at 1, 2.5 and 5 times the powers of ten: upper bound in seconds, and how many were not above.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut seen = 0;
        let mut buckets = Vec::with_capacity(3 * DECADES + 1);
        for (at, bound) in BOUNDS_NS.iter().enumerate() {
            seen += self.counts[at];
            if matches!(STEPS[at % STEPS.len()], 100 | 250 | 500) {
                buckets.push((*bound as f64 / 1e9, seen));
            }
        }
        buckets
    }

    /// Writes the series of a Prometheus histogram: `<name>_bucket`, `_sum` (seconds) and `_count`. `labels` is what
    /// stands between the braces, without a trailing comma; the caller has written the `# TYPE` line.
    pub fn render(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut write = || -> std::fmt::Result {
            for (bound, count) in self.cumulative() {
                writeln!(
                    out,
                    "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                )?;
            }
            let count = self.count();
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
            writeln!(out, "{name}_sum{{{labels}}} {}", self.sum_ns as f64 / 1e9)?;
            writeln!(out, "{name}_count{{{labels}}} {count}")
        };
        write().expect("writing to a String cannot fail");
    }
}

/// Looks back over the last one to two spans of a histogram, so that quantiles follow what happens now.
#[derive(Debug)]
pub struct RecentWindow {
    span: Duration,
    /// Two snapshots, the older first, with the time at which the newer was taken.
    baselines: Mutex<Option<(Snapshot, Snapshot, Instant)>>,
}

impl RecentWindow {
    /// A window of `span`, which moves when it is looked at.
    pub fn new(span: Duration) -> Self {
        Self {
            span,
            baselines: Mutex::new(None),
        }
    }

    /// What `histogram` recorded lately; everything it holds until one span has passed since the first look.
    pub fn look(&self, histogram: &Histogram, now: Instant) -> Snapshot {
        let current = histogram.snapshot();
        let mut baselines = self
            .baselines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (older, newer, taken) = baselines.take().unwrap_or_else(|| {
            let empty = Histogram::default().snapshot();
            (empty.clone(), empty, now)
        });
        let (older, newer, taken) = if now.duration_since(taken) >= self.span {
            (newer, current.clone(), now)
        } else {
            (older, newer, taken)
        };
        let recent = current.since(&older);
        *baselines = Some((older, newer, taken));
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_by_a_quarter_at_most_up_to_100_seconds() {
        assert_eq!(BOUNDS_NS[0], 1_000);
        assert_eq!(BOUNDS_NS[BOUNDS - 1], 100_000_000_000);
        assert!(
            BOUNDS_NS
                .windows(2)
                .all(|pair| pair[0] < pair[1] && pair[1] * 4 <= pair[0] * 5)
        );
    }

    #[test]
    fn quantiles_are_never_below_the_truth_and_at_most_a_quarter_above() {
        let histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        for (q, exact_us) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = histogram.quantile(q).as_secs_f64() * 1e6;
            assert!(
                (exact_us..=exact_us * 1.25).contains(&got),
                "q {q}: {got} us"
            );
        }
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.sum(), Duration::from_micros(500_500));
    }

    #[test]
    fn an_empty_histogram_has_quantile_zero_and_extremes_are_kept() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.quantile(0.5), Duration::from_micros(1));
        histogram.record(Duration::from_secs(4000));
        assert_eq!(histogram.quantile(1.0), Duration::from_secs(100));
    }

    #[test]
    fn rendered_buckets_are_cumulative() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(2));
        histogram.record(Duration::from_millis(3));
        let mut out = String::new();
        histogram
            .snapshot()
            .render(&mut out, "x_seconds", "model=\"m\"");
        assert!(
            out.contains("x_seconds_bucket{model=\"m\",le=\"0.000001\"} 0\n"),
            "{out}"
        );
        assert!(
            out.contains("x_seconds_bucket{model=\"m\",le=\"0.0000025\"} 1\n"),
            "{out}"
        );
        assert!(
            out.contains("x_seconds_bucket{model=\"m\",le=\"0.005\"} 2\n"),
            "{out}"
        );
        assert!(
            out.contains("x_seconds_bucket{model=\"m\",le=\"+Inf\"} 2\n"),
            "{out}"
        );
        assert!(out.contains("x_seconds_count{model=\"m\"} 2\n"), "{out}");
    }

    #[test]
    fn a_recent_window_forgets_what_is_two_spans_old() {
        let histogram = Histogram::default();
        let window = RecentWindow::new(Duration::from_secs(30));
        let start = Instant::now();
        histogram.record(Duration::from_secs(1));
        assert_eq!(window.look(&histogram, start).count(), 1);
        assert_eq!(
            window
                .look(&histogram, start + Duration::from_secs(30))
                .count(),
            1
        );
        histogram.record(Duration::from_millis(1));
        let later = window.look(&histogram, start + Duration::from_secs(60));
        assert_eq!(later.count(), 1);
        assert!(later.quantile(1.0) < Duration::from_millis(2));
    }
}
