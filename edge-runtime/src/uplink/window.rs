use std::time::Duration;

use tokio::time::Instant;

/// Bytes in flight at most to begin with, and however slow the link is.
const FIRST: usize = 64 << 10;
const LEAST: usize = 16 << 10;
/// How long a frame may queue on its way. Whatever is in flight stands before a fresh record of a
/// higher priority, so that the window may not grow with what buffers on the way take in.
const QUEUEING: Duration = Duration::from_millis(200);

/// How much may be in flight: as much as the link carries without a queue, up to a limit. A
/// queue shows as acknowledgements that take longer than the quickest ones. No clock.
pub(super) struct Window {
    max_bytes: usize,
    max_frames: usize,
    limit: usize,
    quickest: Option<Duration>,
    cut: Option<Instant>,
}

impl Window {
    pub(super) fn new(max_bytes: usize, max_frames: usize) -> Self {
        Self {
            max_bytes: max_bytes.max(LEAST),
            max_frames,
            limit: FIRST.min(max_bytes.max(LEAST)),
            quickest: None,
            cut: None,
        }
    }

    /// Whether another frame may go while so much is in flight. One always may.
    pub(super) fn has_room(&self, frames: usize, bytes: usize) -> bool {
        frames == 0 || (frames < self.max_frames && bytes < self.limit)
    }

    /// A frame was acknowledged so long after it was sent.
    pub(super) fn acknowledged(&mut self, bytes: usize, took: Duration, now: Instant) {
        let quickest = self.quickest.map_or(took, |known| known.min(took));
        self.quickest = Some(quickest);
        let queued = took.saturating_sub(quickest);
        if queued <= QUEUEING {
            self.limit = (self.limit + bytes).min(self.max_bytes);
            return;
        }
        // Once for all that was under way with it.
        let sent_since = self.cut.is_none_or(|cut| now.duration_since(cut) >= took);
        if sent_since && self.limit == LEAST {
            // So little makes no queue: the way itself has become longer.
            self.quickest = Some(took);
        } else if sent_since {
            let share = (QUEUEING.as_secs_f64() / queued.as_secs_f64()).clamp(0.3, 0.9);
            self.limit = ((self.limit as f64 * share) as usize).max(LEAST);
            self.cut = Some(now);
        }
    }
}

/// Bytes a second at most, over time. No clock.
pub(super) struct Throttle {
    rate: Option<u64>,
    /// When the link has carried what was sent, at this rate.
    free: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, free: None }
    }

    /// When the next frame may go; none is now.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.free.filter(|free| *free > now)
    }

    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        let Some(rate) = self.rate else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let start = self.free.map_or(now, |free| free.max(now));
        self.free = Some(start + takes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with a bottleneck: what is in flight beyond its capacity waits in a queue.
    fn run(window: &mut Window, bytes_per_s: f64, round_trip: Duration, seconds: f64) -> f64 {
        let frame = 6_000;
        let start = Instant::now();
        let mut now = 0.0;
        let mut link_free = 0.0;
        let mut flight = std::collections::VecDeque::new();
        let mut worst: f64 = 0.0;
        while now < seconds {
            while window.has_room(flight.len(), flight.len() * frame) {
                link_free = f64::max(link_free, now) + frame as f64 / bytes_per_s;
                flight.push_back((now, link_free + round_trip.as_secs_f64()));
            }
            let (sent, back) = flight.pop_front().expect("something is in flight");
            now = back;
            let took = Duration::from_secs_f64(back - sent);
            window.acknowledged(frame, took, start + Duration::from_secs_f64(now));
            // After the first seconds it has found its size.
            if now > seconds / 2.0 {
                worst = worst.max(link_free - now);
            }
        }
        worst
    }

    #[test]
    fn a_slow_link_gets_a_small_window() {
        let mut window = Window::new(1 << 20, 256);
        let waits = run(&mut window, 100_000.0, Duration::from_millis(40), 60.0);
        assert!(
            waits < 1.0,
            "a fresh record would wait {waits} s behind others"
        );
    }

    #[test]
    fn a_fast_link_gets_the_whole_window() {
        let mut window = Window::new(1 << 20, 256);
        run(&mut window, 100e6, Duration::from_millis(80), 5.0);
        assert_eq!(window.limit, 1 << 20);
    }

    #[test]
    fn something_may_always_go() {
        let window = Window::new(1, 256);
        assert!(window.has_room(0, 0));
        assert!(!window.has_room(256, 10));
    }

    #[test]
    fn the_rate_holds_over_time_and_grants_no_debt_for_idle_time() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Some(1_000));
        let mut now = start;
        let mut sent = 0;
        while now < start + Duration::from_secs(10) {
            match throttle.until(now) {
                Some(until) => now = until,
                None => {
                    throttle.sent(100, now);
                    sent += 100;
                }
            }
        }
        assert!((9_900..=10_100).contains(&sent), "{sent} bytes in 10 s");
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.until(later), None);
        throttle.sent(100, later);
        assert!(throttle.until(later).is_some(), "no burst after a pause");
        assert_eq!(Throttle::new(None).until(now), None);
    }
}
