use bytes::Bytes;
use fleet_api::frame::Encoding;
use serde::Serialize;
use serde_json::Value;

use crate::streams::NewRecord;

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Quality {
    Good,
    /// The device itself is not sure.
    #[cfg(feature = "opcua")]
    Uncertain,
    Bad,
}

/// One value of a device at one time; the form of its record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Reading<'a> {
    /// The source's name.
    pub source: &'a str,
    /// The value's name.
    pub name: &'a str,
    /// The value; null where there is none.
    pub value: Value,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// How far it can be trusted.
    pub quality: Quality,
    /// Why it cannot, where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The device's own time, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

impl Reading<'_> {
    pub(super) fn record(&self) -> NewRecord {
        let text = serde_json::to_vec(self).expect("a reading has only string keys");
        NewRecord::new(Encoding::Json, Bytes::from(text))
    }
}

/// Tells which readings of a value differ enough from the last recorded one.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    last: Option<(Value, Quality)>,
    deadband: Option<f64>,
}

impl Change {
    /// Watches a value; numbers have to move by more than `deadband`.
    pub(super) fn new(deadband: Option<f64>) -> Self {
        Self {
            last: None,
            deadband,
        }
    }

    /// Whether this reading is to be recorded.
    pub(super) fn is_new(&self, value: &Value, quality: Quality) -> bool {
        let Some((last, last_quality)) = &self.last else {
            return true;
        };
        if *last_quality != quality {
            return true;
        }
        match (self.deadband, last.as_f64(), value.as_f64()) {
            (Some(deadband), Some(last), Some(now)) => (now - last).abs() > deadband,
            _ => last != value,
        }
    }

    /// Notes a reading that has been recorded.
    pub(super) fn recorded(&mut self, value: Value, quality: Quality) {
        self.last = Some((value, quality));
    }
}

/// A number as JSON; null where JSON has none.
pub(super) fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_json_object() {
        let reading = Reading {
            source: "press-4",
            name: "temperature",
            value: number(21.5),
            unit: Some("Cel"),
            quality: Quality::Good,
            reason: None,
            time: None,
        };
        assert_eq!(
            reading.record().value,
            r#"{"source":"press-4","name":"temperature","value":21.5,"unit":"Cel","quality":"good"}"#
        );
        assert_eq!(number(f64::NAN), Value::Null);
    }

    #[test]
    fn only_changes_beyond_the_deadband_are_new() {
        let mut change = Change::new(Some(0.5));
        assert!(change.is_new(&number(20.0), Quality::Good));
        change.recorded(number(20.0), Quality::Good);
        assert!(!change.is_new(&number(20.5), Quality::Good));
        assert!(change.is_new(&number(20.6), Quality::Good));
        assert!(change.is_new(&number(20.0), Quality::Bad));

        let mut exact = Change::new(None);
        exact.recorded(Value::Bool(true), Quality::Good);
        assert!(!exact.is_new(&Value::Bool(true), Quality::Good));
        assert!(exact.is_new(&Value::Bool(false), Quality::Good));
    }
}
