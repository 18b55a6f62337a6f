//! A window of a vibration signal, as a sensor sends it.

use std::fmt;

use guest_sdk::stream::Encoding;
use serde::Deserialize;

/// Fewer samples have no spectrum to speak of.
pub const MIN_SAMPLES: usize = 16;
/// The spectrum costs the square of the number of samples.
pub const MAX_SAMPLES: usize = 4096;

/// A window: `{"machine": "press-03", "rate_hz": 10, "samples": [0.1, ..]}`.
/// Other members are allowed and left alone.
#[derive(Debug, Deserialize)]
pub struct Window {
    /// Which machine was measured.
    pub machine: String,
    /// Samples per second.
    pub rate_hz: f64,
    /// The samples, in the sensor's unit.
    pub samples: Vec<f64>,
}

/// Why a record is no window.
#[derive(Debug)]
pub enum WindowError {
    /// Not JSON text.
    Encoding(Encoding),
    /// JSON of another shape.
    Shape(serde_json::Error),
    /// Too few or too many samples.
    Length(usize),
    /// A rate that is no positive number.
    Rate(f64),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding(encoding) => write!(f, "a window is JSON, not {encoding:?}"),
            Self::Shape(error) => write!(f, "not a window: {error}"),
            Self::Length(n) => {
                write!(
                    f,
                    "{n} samples; a window has {MIN_SAMPLES} to {MAX_SAMPLES}"
                )
            }
            Self::Rate(rate) => write!(f, "a rate of {rate} Hz is not possible"),
        }
    }
}

/// Reads a window from a record's value.
pub fn parse(encoding: Encoding, value: &[u8]) -> Result<Window, WindowError> {
    if !matches!(encoding, Encoding::Json) {
        return Err(WindowError::Encoding(encoding));
    }
    let window: Window = serde_json::from_slice(value).map_err(WindowError::Shape)?;
    if !(MIN_SAMPLES..=MAX_SAMPLES).contains(&window.samples.len()) {
        return Err(WindowError::Length(window.samples.len()));
    }
    if !(window.rate_hz.is_finite() && window.rate_hz > 0.0) {
        return Err(WindowError::Rate(window.rate_hz));
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Window, WindowError> {
        parse(Encoding::Json, text.as_bytes())
    }

    #[test]
    fn takes_a_window_with_members_it_does_not_know() {
        let samples = vec!["0.5"; MIN_SAMPLES].join(",");
        let text = format!(r#"{{"machine":"m","rate_hz":10,"samples":[{samples}],"unit":"g"}}"#);
        assert_eq!(json(&text).unwrap().samples.len(), MIN_SAMPLES);
    }

    #[test]
    fn says_why_a_record_is_no_window() {
        assert!(matches!(json("{}"), Err(WindowError::Shape(_))));
        assert!(matches!(json("not json"), Err(WindowError::Shape(_))));
        let short = r#"{"machine":"m","rate_hz":10,"samples":[1,2]}"#;
        assert!(matches!(json(short), Err(WindowError::Length(2))));
        let samples = vec!["1"; MIN_SAMPLES].join(",");
        let stopped = format!(r#"{{"machine":"m","rate_hz":0,"samples":[{samples}]}}"#);
        assert!(matches!(json(&stopped), Err(WindowError::Rate(_))));
        assert!(matches!(
            parse(Encoding::Cbor, b""),
            Err(WindowError::Encoding(_))
        ));
    }
}
