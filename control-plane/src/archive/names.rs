//! Where the archive's files lie and what their names say:
//! `archive/stream=S/node=N/day=YYYY-MM-DD/EPOCH-FIRST-LAST.parquet`, and
//! `_EPOCH-FIRST-LAST.gap.json` where there are no records: readers of such folders pass over
//! names that begin with an underscore. `_EPOCH-NEXT-TO.turn.json` says that a node's buffer was
//! made anew: the epoch ended before the sequence NEXT, and the epoch TO followed.
//!
//! A name is the truth about which sequences a file holds. Of two files of a stream and epoch of
//! which one lies within the other, the smaller one is about to be removed and does not count.

use std::fmt;

use fleet_api::frame::CLOCK_UNSET_BELOW_MS;
use fleet_api::ids::{NodeId, StreamName};
use object_store::path::Path;

const DAY_MS: u64 = 86_400_000;
/// The last moment that calendars know: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

/// Whether the clock that gave this time had been set.
pub(crate) fn clock_is_set(time_ms: u64) -> bool {
    (CLOCK_UNSET_BELOW_MS..=LAST_MS).contains(&time_ms)
}

/// A day in UTC, as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(u64);

impl Day {
    /// The day of a record: by its own time, or by that of its receipt where its clock was unset.
    pub(super) fn of(time_ms: u64, received_ms: u64) -> Self {
        let moment = if clock_is_set(time_ms) {
            time_ms
        } else {
            received_ms.min(LAST_MS)
        };
        Self(moment / DAY_MS)
    }

    fn parse(text: &str) -> Option<Self> {
        let date: jiff::civil::Date = text.parse().ok()?;
        let start = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        let ms = u64::try_from(start.timestamp().as_millisecond()).ok()?;
        Some(Self(ms / DAY_MS))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0 * DAY_MS).unwrap_or(i64::MAX);
        let start = jiff::Timestamp::from_millisecond(ms).map_err(|_| fmt::Error)?;
        write!(f, "{}", start.strftime("%Y-%m-%d"))
    }
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records.
    Records,
    /// The reason why there are none.
    Gap,
    /// The epoch that followed; the span is the first sequence that did not come.
    Turn { to: u64 },
}

/// The sequences of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) epoch: u64,
    pub(super) first: u64,
    /// Inclusive.
    pub(super) last: u64,
}

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) node: NodeId,
    pub(super) stream: StreamName,
    pub(super) day: Day,
    pub(super) span: Span,
    pub(super) kind: Kind,
}

/// The folder of all files.
pub(super) fn root() -> Path {
    Path::from("archive")
}

impl FileName {
    /// Where the file lies.
    pub(super) fn path(&self) -> Path {
        let Self {
            node, stream, day, ..
        } = self;
        let Span { epoch, first, last } = self.span;
        let file = match self.kind {
            Kind::Records => format!("{epoch}-{first}-{last}.parquet"),
            Kind::Gap => format!("_{epoch}-{first}-{last}.gap.json"),
            Kind::Turn { to } => format!("_{epoch}-{first}-{to}.turn.json"),
        };
        let root = root();
        Path::from(format!(
            "{root}/stream={stream}/node={node}/day={day}/{file}"
        ))
    }

    /// Reads a file's name; `None` if it is no file of the archive.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let parts: Vec<_> = path.as_ref().split('/').collect();
        let ["archive", stream, node, day, name] = parts[..] else {
            return None;
        };
        let (name, ending) = name.split_once('.')?;
        let (is_marked, numbers) = match name.strip_prefix('_') {
            Some(numbers) => (true, numbers),
            None => (false, name),
        };
        let mut numbers = numbers.split('-').map(str::parse::<u64>);
        let [epoch, first, third] = [
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
        ];
        let (kind, last) = match (is_marked, ending) {
            (false, "parquet") => (Kind::Records, third),
            (true, "gap.json") => (Kind::Gap, third),
            (true, "turn.json") => (Kind::Turn { to: third }, first),
            _ => return None,
        };
        let span = Span { epoch, first, last };
        (numbers.next().is_none() && first <= last).then_some(())?;
        Some(Self {
            node: NodeId::new(node.strip_prefix("node=")?).ok()?,
            stream: StreamName::new(stream.strip_prefix("stream=")?).ok()?,
            day: Day::parse(day.strip_prefix("day=")?)?,
            span,
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        for (kind, last) in [
            (Kind::Records, 9),
            (Kind::Gap, 9),
            (Kind::Turn { to: 2 }, 3),
        ] {
            let name = FileName {
                node: NodeId::new("n1").unwrap(),
                stream: StreamName::new("vibration").unwrap(),
                day: Day::of(1_764_028_800_000, 0),
                span: Span {
                    epoch: 7,
                    first: 3,
                    last,
                },
                kind,
            };
            assert_eq!(FileName::parse(&name.path()), Some(name));
        }
    }

    #[test]
    fn foreign_files_are_left_alone() {
        for path in [
            "archive/stream=s/node=n/day=2025-11-25/1-2.parquet",
            "archive/stream=s/node=n/day=2025-11-25/1-3-2.parquet",
            "archive/stream=s/node=n/day=today/1-2-3.parquet",
            "archive/stream=s/node=n/day=2025-11-25/1-2-3.parquet.tmp",
            "archive/stream=s/node=n/day=2025-11-25/_1-2-3.parquet",
            "archive/stream=s/node=n/day=2025-11-25/1-2-3.gap.json",
            "blobs/sha256/1-2-3.parquet",
        ] {
            assert_eq!(FileName::parse(&Path::from(path)), None, "{path}");
        }
    }

    #[test]
    fn the_day_is_the_records_own_unless_its_clock_was_unset() {
        let (receipt, day) = (1_764_028_800_000, "2025-11-25");
        assert_eq!(
            Day::of(1_735_689_599_999, receipt).to_string(),
            "2024-12-31"
        );
        assert_eq!(
            Day::of(1_735_689_600_000, receipt).to_string(),
            "2025-01-01"
        );
        for unset in [0, 86_400_000, CLOCK_UNSET_BELOW_MS - 1, u64::MAX] {
            assert_eq!(Day::of(unset, receipt).to_string(), day);
        }
    }
}
