//! How many bytes of frames fit into what the buffer may take on the disk. The
//! database takes a multiple of its frames, which depends on the load and is
//! only known by looking; it never shrinks, but uses freed space again. So the
//! limit on frames is led by what the file does, and nothing but the limit has
//! to be kept.

/// What the database usually takes for a byte of frames under churn.
const USUAL_RATIO: u64 = 3;
/// The limit never falls below this share of the disk's.
const LEAST: u64 = 16;
/// A database that grows by this share of the disk's limit beyond it holds too much.
const GROWTH: u64 = 64;

/// The limit on the bytes of all frames.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    disk_limit: u64,
    limit: u64,
    /// Size of the database when the limit was last lowered for its growth.
    grown_to: u64,
}

impl Budget {
    /// A budget of `disk_limit` bytes on the disk.
    pub(super) fn new(disk_limit: u64) -> Self {
        Self {
            disk_limit,
            limit: disk_limit / USUAL_RATIO,
            grown_to: disk_limit,
        }
    }

    /// Bytes that all frames may have.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Before a group: a database near its limit must not be given more, and one that grows
    /// beyond it all the same holds too much. How fast a machine is makes no difference: the
    /// limit falls with the growth, not with time.
    pub(super) fn look(&mut self, disk: u64, live: u64) {
        if disk >= self.grown_to + self.disk_limit / GROWTH {
            self.grown_to = disk;
            self.lower(live - live / 16);
        } else if disk >= self.disk_limit - self.disk_limit / 32 {
            self.lower(live);
        }
    }

    /// About once a second: a database that takes less than it may can be given more.
    pub(super) fn adjust(&mut self, disk: u64, live: u64) {
        if live >= self.limit - self.limit / 8 && disk < self.disk_limit / 4 * 3 {
            self.limit = (self.limit + self.disk_limit / 64).min(self.disk_limit);
        }
    }

    fn lower(&mut self, to: u64) {
        self.limit = self.limit.min(to).max(self.disk_limit / LEAST);
    }
}

/// What a stream holds and whether it may be made to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub name: &'a str,
    pub priority: u8,
    /// Bytes that are not released.
    pub bytes: u64,
    /// Whether its oldest records may make room for others.
    pub gives: bool,
}

/// The share of `limit` that no other stream can take from any of `streams`.
pub(super) fn guarded_share(limit: u64, streams: usize) -> u64 {
    limit / 4 / (streams.max(1) as u64)
}

/// Which stream makes room for `wanted` bytes of `stream` when all is taken: the lowest
/// priority below its own, then itself. A stream with less than its share takes from the
/// largest, and none is pushed below its share by others.
pub(super) fn gives_room<'a>(
    claims: &[Claim<'a>],
    stream: &str,
    wanted: u64,
    share: u64,
) -> Option<&'a str> {
    let own = claims.iter().find(|claim| claim.name == stream);
    let priority = own.map_or(0, |own| own.priority);
    let others = || {
        claims
            .iter()
            .filter(|claim| claim.gives && claim.name != stream && claim.bytes > share)
    };
    let lower = others()
        .filter(|claim| claim.priority < priority)
        .min_by_key(|claim| (claim.priority, u64::MAX - claim.bytes));
    let is_small = own.is_none_or(|own| own.bytes + wanted <= share);
    let largest = || {
        is_small
            .then(|| others().max_by_key(|claim| claim.bytes))
            .flatten()
    };
    let itself = || own.filter(|own| own.gives && own.bytes > 0);
    let found = lower.or_else(largest).or_else(itself)?;
    Some(found.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(name: &str, priority: u8, bytes: u64, gives: bool) -> Claim<'_> {
        Claim {
            name,
            priority,
            bytes,
            gives,
        }
    }

    #[test]
    fn the_lowest_priority_gives_first_and_keeps_its_share() {
        let claims = [
            claim("high", 9, 100, true),
            claim("mid", 5, 400, true),
            claim("low", 1, 300, true),
            claim("kept", 0, 900, false),
        ];
        assert_eq!(gives_room(&claims, "high", 10, 50), Some("low"));
        assert_eq!(gives_room(&claims, "mid", 10, 50), Some("low"));
        assert_eq!(gives_room(&claims, "low", 10, 50), Some("low"));
        assert_eq!(gives_room(&claims, "high", 10, 300), Some("mid"));
        assert_eq!(gives_room(&claims, "kept", 10, 50), None, "it refuses");
    }

    #[test]
    fn a_stream_with_less_than_its_share_takes_from_the_largest() {
        let claims = [
            claim("high", 9, 800, true),
            claim("low", 1, 10, true),
            claim("strict", 1, 0, false),
        ];
        assert_eq!(gives_room(&claims, "low", 10, 50), Some("high"));
        assert_eq!(gives_room(&claims, "strict", 10, 50), Some("high"));
        assert_eq!(gives_room(&claims, "low", 60, 50), Some("low"));
        assert_eq!(gives_room(&claims, "new", 10, 50), Some("high"));
    }

    proptest! {
        /// A database that takes `ratio` times its frames, and reuses what is freed.
        #[test]
        fn the_disk_stays_within_its_limit_whatever_the_ratio(ratio in 1.0..14.0f64, step in 1..40u64) {
            let disk_limit = 1_000_000u64;
            let mut budget = Budget::new(disk_limit);
            let (mut live, mut disk) = (0u64, 0u64);
            for round in 0..3_000 {
                budget.look(disk, live);
                // Streams that drop their oldest records are always full.
                live = (live + step * 500).min(budget.limit());
                disk = disk.max((live as f64 * ratio) as u64);
                if round % 5 == 0 {
                    budget.adjust(disk, live);
                }
            }
            prop_assert!(disk <= disk_limit + disk_limit / 4, "{disk} with ratio {ratio}");
            let reached = disk as f64 / disk_limit as f64;
            prop_assert!(reached > 0.6 || live * 10 > disk_limit * 6, "only {reached} of the disk is used");
        }
    }
}
