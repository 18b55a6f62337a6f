//! Sparkplug B's payloads, by the field numbers of its public definition.

use prost::Message;

pub(super) const INT64: u32 = 4;
pub(super) const UINT64: u32 = 8;
pub(super) const DOUBLE: u32 = 10;
pub(super) const BOOLEAN: u32 = 11;
pub(super) const STRING: u32 = 12;
pub(super) const BYTES: u32 = 17;

/// The metric by which a host asks for births.
pub(super) const REBIRTH: &str = "Node Control/Rebirth";

/// A message's content.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Payload {
    #[prost(uint64, optional, tag = "1")]
    pub(super) timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub(super) metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) seq: Option<u64>,
}

/// A value with its name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    pub(super) is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(super) is_null: Option<bool>,
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15, 16")]
    pub(super) value: Option<Value>,
}

/// What a metric holds.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
    #[prost(bytes = "vec", tag = "16")]
    Bytes(Vec<u8>),
}

impl Metric {
    pub(super) fn new(name: &str, datatype: u32, timestamp: u64, value: Value) -> Self {
        Self {
            name: Some(name.to_owned()),
            timestamp: Some(timestamp),
            datatype: Some(datatype),
            value: Some(value),
            ..Self::default()
        }
    }
}

/// Whether a command asks for births.
pub(super) fn asks_for_rebirth(payload: &[u8]) -> bool {
    let Ok(payload) = Payload::decode(payload) else {
        return false;
    };
    let asks = |metric: &Metric| {
        metric.name.as_deref() == Some(REBIRTH) && metric.value == Some(Value::Boolean(true))
    };
    payload.metrics.iter().any(asks)
}
