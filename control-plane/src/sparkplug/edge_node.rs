//! What a node of the fleet says as an edge node of Sparkplug, its streams as devices. Pure.
//!
//! ```text
//!  connect: NDEATH as will (bdSeq n) ─► NBIRTH (bdSeq n, seq 0) ─► DBIRTH per stream ─► DDATA ..
//!  new metric, or one that has become wider: DBIRTH again      rebirth asked for: all births again
//! ```

use std::collections::BTreeMap;

use fleet_api::frame::{Encoding, Record};
use fleet_api::ids::{NodeId, StreamName};
use prost::Message as _;

use super::payload::{
    BOOLEAN, BYTES, DOUBLE, INT64, Metric, Payload, REBIRTH, STRING, UINT64, Value,
};
use crate::archive::fields::{Scalar, Shape};
use crate::archive::names::clock_is_set;

/// Metrics of a device at most.
const MAX_METRICS: usize = 500;
/// Records in a message at most.
const MAX_RECORDS: usize = 50;
/// A record that is older when it is told is history.
const HISTORY_MS: u64 = 30_000;
/// The metric of a record that is no object.
const WHOLE: &str = "value";

/// A message for the plant's broker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// One node of the fleet.
pub(super) struct EdgeNode {
    group: String,
    node: NodeId,
    /// Of the present connection.
    bd_seq: u8,
    /// Of the next message.
    seq: u8,
    devices: BTreeMap<StreamName, Device>,
}

/// One stream: its metrics with their last values.
#[derive(Default)]
struct Device {
    shape: Shape,
    metrics: BTreeMap<String, Metric>,
    is_born: bool,
}

impl EdgeNode {
    pub(super) fn new(group: &str, node: NodeId) -> Self {
        Self {
            group: group.to_owned(),
            node,
            bd_seq: 0,
            seq: 0,
            devices: BTreeMap::new(),
        }
    }

    /// Counts the connections: the next one has its own births and deaths.
    pub(super) fn next_connection(&mut self) {
        self.bd_seq = self.bd_seq.wrapping_add(1);
        for device in self.devices.values_mut() {
            device.is_born = false;
        }
    }

    /// The topic on which hosts speak to the node.
    pub(super) fn commands(&self) -> String {
        format!("spBv1.0/{}/NCMD/{}", self.group, self.node)
    }

    /// What the broker says when the connection breaks: only which one it was.
    pub(super) fn death(&self, now_ms: u64) -> Message {
        let payload = Payload {
            timestamp: Some(now_ms),
            metrics: vec![self.bd_seq_metric(now_ms)],
            seq: None,
        };
        Message {
            topic: format!("spBv1.0/{}/NDEATH/{}", self.group, self.node),
            payload: payload.encode_to_vec(),
        }
    }

    /// The births of the node and of all streams that are known.
    pub(super) fn births(&mut self, now_ms: u64) -> Vec<Message> {
        self.seq = 0;
        let rebirth = Metric::new(REBIRTH, BOOLEAN, now_ms, Value::Boolean(false));
        let metrics = vec![self.bd_seq_metric(now_ms), rebirth];
        let mut messages = vec![self.message("NBIRTH", None, metrics, now_ms)];
        let streams: Vec<_> = self.devices.keys().cloned().collect();
        for stream in streams {
            messages.push(self.device_birth(&stream, now_ms));
        }
        messages
    }

    /// What new records of a stream make it say.
    pub(super) fn data(
        &mut self,
        stream: &StreamName,
        records: &[Record],
        now_ms: u64,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        for records in records.chunks(MAX_RECORDS) {
            let mut metrics = Vec::new();
            for record in records {
                let device = self.devices.entry(stream.clone()).or_default();
                let (told, has_changed) = device.take(record, now_ms);
                if has_changed || !device.is_born {
                    if !metrics.is_empty() {
                        let metrics = std::mem::take(&mut metrics);
                        messages.push(self.message("DDATA", Some(stream), metrics, now_ms));
                    }
                    messages.push(self.device_birth(stream, now_ms));
                } else {
                    metrics.extend(told);
                }
            }
            if !metrics.is_empty() {
                messages.push(self.message("DDATA", Some(stream), metrics, now_ms));
            }
        }
        messages
    }

    /// Remembers the last values of records that nobody can be told of.
    pub(super) fn note(&mut self, stream: &StreamName, records: &[Record], now_ms: u64) {
        let device = self.devices.entry(stream.clone()).or_default();
        for record in records {
            device.take(record, now_ms);
        }
    }

    fn device_birth(&mut self, stream: &StreamName, now_ms: u64) -> Message {
        let device = self.devices.entry(stream.clone()).or_default();
        device.is_born = true;
        let metrics = device.metrics.values().cloned().collect();
        self.message("DBIRTH", Some(stream), metrics, now_ms)
    }

    fn bd_seq_metric(&self, now_ms: u64) -> Metric {
        Metric::new("bdSeq", UINT64, now_ms, Value::Long(self.bd_seq.into()))
    }

    fn message(
        &mut self,
        kind: &str,
        stream: Option<&StreamName>,
        metrics: Vec<Metric>,
        now_ms: u64,
    ) -> Message {
        let payload = Payload {
            timestamp: Some(now_ms),
            metrics,
            seq: Some(self.seq.into()),
        };
        self.seq = self.seq.wrapping_add(1);
        let device = stream.map(|s| format!("/{s}")).unwrap_or_default();
        Message {
            topic: format!("spBv1.0/{}/{kind}/{}{device}", self.group, self.node),
            payload: payload.encode_to_vec(),
        }
    }
}

impl Device {
    /// Takes a record's values; says whether a metric is new or has become wider.
    fn take(&mut self, record: &Record, now_ms: u64) -> (Vec<Metric>, bool) {
        let columns = self
            .shape
            .columns(std::slice::from_ref(record), MAX_METRICS);
        let values = columns.into_iter().filter_map(|column| {
            let scalar = column.cells.into_iter().next()?.1;
            Some((column.name.replace('.', "/"), typed(scalar)))
        });
        let mut values: Vec<_> = values.collect();
        if values.is_empty() && !is_object(record) {
            values.push((WHOLE.to_owned(), whole(record)));
        }
        let is_history = record.time_ms.saturating_add(HISTORY_MS) < now_ms;
        let timestamp = if clock_is_set(record.time_ms) {
            record.time_ms
        } else {
            now_ms
        };
        let (mut told, mut has_changed) = (Vec::new(), false);
        for (name, (datatype, value)) in values {
            let known = self.metrics.get(&name).and_then(|m| m.datatype);
            if known.is_none() && self.metrics.len() >= MAX_METRICS {
                continue;
            }
            let (datatype, value) = fit(known, datatype, value);
            has_changed |= known != Some(datatype);
            let mut metric = Metric {
                name: Some(name.clone()),
                timestamp: Some(timestamp),
                datatype: Some(datatype),
                is_historical: None,
                is_null: value.is_none().then_some(true),
                value,
            };
            self.metrics.insert(name, metric.clone());
            metric.is_historical = is_history.then_some(true);
            told.push(metric);
        }
        (told, has_changed)
    }
}

/// A value in the type that its metric was born with. Whole numbers may become fractions; what
/// fits in no other way is null.
#[expect(clippy::cast_precision_loss, reason = "the archive stays exact")]
fn fit(known: Option<u32>, datatype: u32, value: Value) -> (u32, Option<Value>) {
    match (known, value) {
        (None, value) => (datatype, Some(value)),
        (Some(known), value) if known == datatype => (known, Some(value)),
        (Some(INT64), Value::Double(number)) => (DOUBLE, Some(Value::Double(number))),
        (Some(DOUBLE), Value::Long(number)) => {
            (DOUBLE, Some(Value::Double(number.cast_signed() as f64)))
        }
        (Some(STRING), Value::Long(number)) => {
            (STRING, Some(Value::Text(number.cast_signed().to_string())))
        }
        (Some(STRING), Value::Double(number)) => (STRING, Some(Value::Text(number.to_string()))),
        (Some(known), _) => (known, None),
    }
}

fn typed(scalar: Scalar) -> (u32, Value) {
    match scalar {
        Scalar::Bool(is) => (BOOLEAN, Value::Boolean(is)),
        Scalar::Int(number) => (INT64, Value::Long(number.cast_unsigned())),
        Scalar::Double(number) => (DOUBLE, Value::Double(number)),
        Scalar::Text(text) => (STRING, Value::Text(text)),
    }
}

fn is_object(record: &Record) -> bool {
    record.encoding == Encoding::Json && record.value.trim_ascii_start().starts_with(b"{")
}

/// A record that is no object, as one value.
fn whole(record: &Record) -> (u32, Value) {
    let bytes = || (BYTES, Value::Bytes(record.value.to_vec()));
    if record.encoding != Encoding::Json {
        return bytes();
    }
    match serde_json::from_slice(&record.value) {
        Ok(serde_json::Value::Bool(is)) => (BOOLEAN, Value::Boolean(is)),
        Ok(serde_json::Value::Number(number)) => match number.as_i64() {
            Some(number) => (INT64, Value::Long(number.cast_unsigned())),
            None => (DOUBLE, Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        },
        Ok(serde_json::Value::String(text)) => (STRING, Value::Text(text)),
        Ok(other) => (STRING, Value::Text(other.to_string())),
        Err(_) => bytes(),
    }
}

#[cfg(test)]
mod tests;
