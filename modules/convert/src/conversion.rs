//! The conversion of one record.

use serde_json::{Map, Value, json};

pub struct Conversion {
    pub field: String,
    pub scale: f64,
    pub offset: f64,
    pub unit: Option<String>,
}

impl Conversion {
    /// The record with its field converted.
    pub fn apply(&self, mut record: Map<String, Value>) -> Result<Map<String, Value>, String> {
        let field = &self.field;
        let value = record.get(field).and_then(Value::as_f64);
        let value = value.ok_or_else(|| format!("it has no number {field:?}"))?;
        let converted = value * self.scale + self.offset;
        if !converted.is_finite() {
            return Err(format!("{field} is {value}, too large to convert"));
        }
        record.insert(field.clone(), json!(converted));
        if let Some(unit) = &self.unit {
            record.insert("unit".to_owned(), json!(unit));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn converts_the_field_and_leaves_the_others() {
        let celsius = Conversion {
            field: "temperature".to_owned(),
            scale: 1.0 / 1.8,
            offset: -32.0 / 1.8,
            unit: Some("°C".to_owned()),
        };
        let boiling = celsius.apply(record(json!({ "temperature": 212, "machine": "m" })));
        let boiling = boiling.expect("converts");
        assert!((boiling["temperature"].as_f64().expect("a number") - 100.0).abs() < 1e-9);
        assert_eq!(
            (&boiling["unit"], &boiling["machine"]),
            (&json!("°C"), &json!("m"))
        );
    }

    #[test]
    fn says_why_a_record_cannot_be_converted() {
        let twice = Conversion {
            field: "value".to_owned(),
            scale: 2.0,
            offset: 0.0,
            unit: None,
        };
        let error = twice.apply(record(json!({ "value": "high" }))).unwrap_err();
        assert_eq!(error, "it has no number \"value\"");
        let error = twice.apply(record(json!({ "value": 1e308 }))).unwrap_err();
        assert!(error.contains("too large"), "{error}");
    }
}
