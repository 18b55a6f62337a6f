use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_api::source::OpcuaSource;
use opcua::types::{Array, DataValue, DateTime, StatusCode, Variant};
use serde_json::Value;

use super::super::intake::IntakeError;
use super::super::reading::{Change, Quality, Reading, number};
use super::{Context, OpcuaError, Position, Stopped};
use crate::streams::Mark;

/// Ticks of 100 ns from 1601, where OPC UA begins, to 1970.
const UNIX_EPOCH_TICKS: i64 = 116_444_736_000_000_000;

/// A value as the server told it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// Its place in the source's `nodes`.
    pub at: usize,
    pub value: Value,
    pub quality: Quality,
    pub reason: Option<String>,
    /// The device's time, else the server's, in milliseconds since the Unix epoch.
    pub time: Option<u64>,
    /// The server left out values before this one.
    pub overrun: bool,
}

impl Found {
    pub(super) fn bad(at: usize, reason: &str) -> Self {
        Self {
            at,
            value: Value::Null,
            quality: Quality::Bad,
            reason: Some(reason.to_owned()),
            time: None,
            overrun: false,
        }
    }

    pub(super) fn of(at: usize, told: &DataValue) -> Self {
        let status = told.status.unwrap_or(StatusCode::Good);
        let value = told.value.as_ref().map_or(Value::Null, json);
        let (quality, mut reason) = if status.is_bad() {
            (Quality::Bad, Some(status.sub_code().to_string()))
        } else if status.is_uncertain() {
            (Quality::Uncertain, Some(status.sub_code().to_string()))
        } else if value.is_null() {
            let reason = "there is no value that JSON can express";
            (Quality::Bad, Some(reason.to_owned()))
        } else {
            (Quality::Good, None)
        };
        if status.overflow() {
            reason = Some("the server left out values before this one".to_owned());
        }
        let time = told.source_timestamp.or(told.server_timestamp);
        Self {
            at,
            value,
            quality,
            reason,
            time: time.and_then(unix_ms),
            overrun: status.overflow(),
        }
    }
}

/// What each value was last, over all connections.
pub(super) struct Values<'a> {
    opcua: &'a OpcuaSource,
    changes: Vec<Change>,
    source: &'a str,
    /// Values that were told bad by this end, not by the server.
    missing: Vec<bool>,
    position: Option<Position>,
    read: bool,
    intake: super::super::intake::Intake,
}

impl<'a> Values<'a> {
    pub(super) fn new(context: &'a Context, opcua: &'a OpcuaSource) -> Self {
        let changes = opcua.nodes.iter().map(|node| Change::new(node.deadband));
        Self {
            opcua,
            changes: changes.collect(),
            source: context.name(),
            missing: vec![false; opcua.nodes.len()],
            position: None,
            read: false,
            intake: context.intake.clone(),
        }
    }

    /// How far the source has come, from the buffer the first time.
    pub(super) async fn position(&mut self) -> Result<Option<Position>, OpcuaError> {
        if !self.read {
            let (streams, name) = (self.intake.streams.clone(), self.source.to_owned());
            let read = tokio::task::spawn_blocking(move || streams.position(&name));
            let noted = read.await.expect("reading a note does not panic")?;
            self.position = noted.and_then(|note| Position::from_note(&note));
            self.read = true;
        }
        Ok(self.position.clone())
    }

    /// Whether there are records of this source already.
    pub(super) fn told_before(&self) -> bool {
        self.position.is_some()
    }

    /// Lets the next session make a subscription of its own.
    pub(super) fn give_up_subscription(&mut self) {
        if let Some(position) = &mut self.position {
            position.server = None;
        }
    }

    pub(super) fn are_missing(&self) -> bool {
        self.missing.contains(&true)
    }

    /// Places of the values that are bad because nothing was heard of them.
    pub(super) fn missing(&self) -> Vec<usize> {
        let places = self.missing.iter().enumerate();
        places.filter_map(|(at, is)| is.then_some(at)).collect()
    }

    /// Records every value as bad that is not yet.
    pub(super) async fn tell_bad(
        &mut self,
        context: &Context,
        reason: &str,
    ) -> Result<(), Stopped> {
        let all = 0..self.opcua.nodes.len();
        let found: Vec<_> = all
            .filter(|&at| self.changes[at].is_new(&Value::Null, Quality::Bad))
            .map(|at| Found::bad(at, reason))
            .collect();
        let told: Vec<_> = found.iter().map(|found| found.at).collect();
        self.store(context, found, None).await?;
        told.into_iter().for_each(|at| self.missing[at] = true);
        Ok(())
    }

    /// Makes those of `found` durable that are changes, with the position in the same commit.
    pub(super) async fn store(
        &mut self,
        context: &Context,
        found: Vec<Found>,
        position: Option<Position>,
    ) -> Result<(), Stopped> {
        // What is not durable yet is not the last value yet.
        let mut next: BTreeMap<usize, Change> = BTreeMap::new();
        let mut records = Vec::new();
        for found in &found {
            let change = next
                .entry(found.at)
                .or_insert_with(|| self.changes[found.at].clone());
            // What the server says replaces what was told without it.
            let replaces = self.missing[found.at];
            let is_new = change.is_new(&found.value, found.quality);
            if !(is_new || replaces || found.overrun) {
                continue;
            }
            change.recorded(found.value.clone(), found.quality);
            let node = &self.opcua.nodes[found.at];
            let reading = Reading {
                source: self.source,
                name: &node.name,
                value: found.value.clone(),
                unit: node.unit.as_deref(),
                quality: found.quality,
                reason: found.reason.as_deref(),
                time: found.time,
            };
            records.push(reading.record());
        }
        if !records.is_empty() {
            let mark = position.as_ref().map(|position| Mark::Position {
                source: self.source.to_owned(),
                position: position.note(),
            });
            match context.intake.store_what_fits(records, mark).await {
                Ok(()) => {}
                Err(IntakeError::Stopped | IntakeError::Refused(_)) => return Err(Stopped),
            }
        }
        for (at, change) in next {
            self.changes[at] = change;
            self.missing[at] = false;
        }
        if position.is_some() {
            self.position = position;
        }
        Ok(())
    }
}

/// A value in JSON. 64-bit integers stay numbers; bytes are base64, times RFC 3339, matrices
/// lists of their elements in order. Null where JSON has no form.
pub(super) fn json(variant: &Variant) -> Value {
    match variant {
        Variant::Boolean(value) => (*value).into(),
        Variant::SByte(value) => (*value).into(),
        Variant::Byte(value) => (*value).into(),
        Variant::Int16(value) => (*value).into(),
        Variant::UInt16(value) => (*value).into(),
        Variant::Int32(value) => (*value).into(),
        Variant::UInt32(value) => (*value).into(),
        Variant::Int64(value) => (*value).into(),
        Variant::UInt64(value) => (*value).into(),
        // By its shortest text, which is what people read at the device.
        Variant::Float(value) => value.to_string().parse().map_or(Value::Null, number),
        Variant::Double(value) => number(*value),
        Variant::String(text) => text.value().clone().into(),
        Variant::XmlElement(text) => text.to_string().into(),
        Variant::DateTime(time) => time.to_rfc3339().into(),
        Variant::Guid(guid) => guid.to_string().into(),
        Variant::StatusCode(status) => status.to_string().into(),
        Variant::ByteString(bytes) => match &bytes.value {
            Some(bytes) => STANDARD.encode(bytes).into(),
            None => Value::Null,
        },
        Variant::QualifiedName(name) => name.name.value().clone().into(),
        Variant::LocalizedText(text) => text.text.value().clone().into(),
        Variant::NodeId(node) => node.to_string().into(),
        Variant::ExpandedNodeId(node) => node.to_string().into(),
        Variant::Variant(inner) => json(inner),
        Variant::DataValue(inner) => inner.value.as_ref().map_or(Value::Null, json),
        Variant::Array(array) => list(array),
        Variant::Empty | Variant::ExtensionObject(_) | Variant::DiagnosticInfo(_) => Value::Null,
    }
}

fn list(array: &Array) -> Value {
    array.values.iter().map(json).collect()
}

fn unix_ms(time: DateTime) -> Option<u64> {
    u64::try_from((time.ticks() - UNIX_EPOCH_TICKS) / 10_000).ok()
}

#[cfg(test)]
mod tests {
    use opcua::types::{ByteString, LocalizedText, UAString};
    use serde_json::json as j;

    use super::*;

    #[test]
    fn every_kind_of_value_has_its_form() {
        let cases = [
            (Variant::from(true), j!(true)),
            (Variant::from(i64::MIN), j!(i64::MIN)),
            (Variant::from(u64::MAX), j!(u64::MAX)),
            (Variant::from(21.3_f32), j!(21.3)),
            (Variant::from(0.1_f64), j!(0.1)),
            (Variant::from(f64::NAN), Value::Null),
            (Variant::from(f32::INFINITY), Value::Null),
            (Variant::from("läuft"), j!("läuft")),
            (Variant::from(UAString::null()), Value::Null),
            (Variant::from(ByteString::from(vec![1, 2])), j!("AQI=")),
            (Variant::from(LocalizedText::new("en", "runs")), j!("runs")),
            (Variant::from(vec![1_i32, 2]), j!([1, 2])),
            (Variant::Empty, Value::Null),
        ];
        for (variant, wanted) in cases {
            assert_eq!(json(&variant), wanted, "{variant:?}");
        }
    }

    #[test]
    fn status_and_time_of_a_value_are_kept() {
        let mut told = DataValue::from(3_i32);
        told.status = Some(StatusCode::UncertainLastUsableValue);
        told.source_timestamp = Some(DateTime::ymd_hms(2026, 1, 2, 3, 4, 5));
        let found = Found::of(0, &told);
        assert_eq!(found.quality, Quality::Uncertain);
        assert_eq!(found.value, j!(3));
        assert_eq!(found.time, Some(1_767_323_045_000));
        let reason = found.reason.expect("a reason");
        assert!(reason.contains("UncertainLastUsableValue"), "{reason}");

        told.status = Some(StatusCode::BadSensorFailure);
        assert_eq!(Found::of(0, &told).quality, Quality::Bad);
        told.status = Some(StatusCode::from(0x480));
        let found = Found::of(0, &told);
        assert!(found.overrun && found.quality == Quality::Good);
    }
}
