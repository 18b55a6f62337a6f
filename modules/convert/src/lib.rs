//! Converts a field of each record to another unit: value × scale + offset.
//! Other members stay as they are; `unit` says what it is now.
//!
//! Configuration: `field` (default `value`), `scale` (default 1), `offset`
//! (default 0), `unit` (none by default), `to` (the stream of the results,
//! default `converted`).

mod conversion;

use guest_sdk::config;
use guest_sdk::stream::{Handler, Output, Record};

use conversion::Conversion;

struct Convert;

impl Handler for Convert {
    fn process(_: &str, batch: Vec<Record>) -> Result<Vec<Output>, String> {
        let to = config::value_or("to", "converted");
        let conversion = Conversion {
            field: config::value_or("field", "value"),
            scale: config::parsed("scale")?.unwrap_or(1.0),
            offset: config::parsed("offset")?.unwrap_or(0.0),
            unit: config::value("unit"),
        };
        // A record that cannot be converted fails the batch: the node narrows
        // it down to that record and sets it aside in <stream>.dead.
        let converted = batch.into_iter().map(|record| {
            let value = record.json().and_then(|value| conversion.apply(value));
            let value = value.map_err(|error| format!("record {}: {error}", record.sequence))?;
            Output::json(&to, &value)
        });
        converted.collect()
    }
}

guest_sdk::stream_handler!(Convert);
