use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a quantity cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a byte size.
    #[error(
        "{0:?} is not a size: write a whole number with B, KiB, MiB, GiB, kB, MB or GB, as in \"64MiB\""
    )]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: write a whole number with ms, s, m, h or d, as in \"500ms\"")]
    Span(String),
}

/// A number of bytes, written as `64MiB`, `1GB` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, example = "64MiB"))]
pub struct ByteSize(pub u64);

/// A span of time in milliseconds, written as `500ms`, `2s`, `15m`, `24h` or `7d`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    ms: u64,
}

const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
const SPANS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Span {
    /// A span of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// The span in milliseconds.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The span as the standard library's duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

impl ByteSize {
    /// The size as a `usize`, saturating on small targets.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

fn parse(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim();
    let factor = if unit.is_empty() {
        bare?
    } else {
        units.iter().find(|(name, _)| *name == unit)?.1
    };
    number.checked_mul(factor)
}

fn print(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let best = units
        .iter()
        .filter(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor);
    match best {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(
            f,
            "0{}",
            units.iter().min_by_key(|u| u.1).map_or("", |u| u.0)
        ),
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SIZES, Some(1))
            .map(Self)
            .ok_or_else(|| UnitError::Size(text.to_owned()))
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SPANS, None)
            .map(Self::from_ms)
            .ok_or_else(|| UnitError::Span(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, &SIZES, f)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.ms, &SPANS, f)
    }
}

macro_rules! serde_by_text {
    ($name:ident, $expecting:literal, $from_number:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        let from_number: fn(u64) -> Option<$name> = $from_number;
                        from_number(number)
                            .ok_or_else(|| E::custom(concat!("expected ", $expecting)))
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        u64::try_from(number)
                            .map_err(E::custom)
                            .and_then(|n| self.visit_u64(n))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

serde_by_text!(ByteSize, "a size such as \"64MiB\"", |n| Some(ByteSize(n)));
serde_by_text!(Span, "a duration with its unit, such as \"500ms\"", |_| {
    None
});

crate::text_schema!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_quantities() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("12", 12),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)));
        }
        for (text, ms) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("15m", 900_000),
            ("7d", 604_800_000),
        ] {
            let span: Span = text.parse().expect("a valid span");
            assert_eq!(span.ms(), ms);
            assert_eq!(span.to_string(), text);
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
    }

    #[test]
    fn refuses_quantities_without_meaning() {
        for bad in ["", "MiB", "-1MiB", "1.5GiB", "64mib", "99999999999GiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
        for bad in ["", "5", "5 parsecs", "s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }
}
