//! What passes and what does not.

use serde_json::Value;

/// The values that pass, both ends included.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// What a record is for the filter.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    Within,
    Outside(String),
    /// It has no such number.
    Unreadable(String),
}

impl Range {
    pub fn judge(&self, field: &str, record: &Result<Value, String>) -> Reading {
        let record = match record {
            Ok(record) => record,
            Err(reason) => return Reading::Unreadable(reason.clone()),
        };
        let Some(value) = record.get(field).and_then(Value::as_f64) else {
            return Reading::Unreadable(format!("it has no number {field:?}"));
        };
        match (self.min, self.max) {
            (Some(min), _) if value < min => {
                Reading::Outside(format!("{field} is {value}, below {min}"))
            }
            (_, Some(max)) if value > max => {
                Reading::Outside(format!("{field} is {value}, above {max}"))
            }
            _ => Reading::Within,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lets_through_what_lies_within_both_ends() {
        let range = Range {
            min: Some(-1.0),
            max: Some(1.0),
        };
        let judge = |value: Value| range.judge("g", &Ok(json!({ "g": value })));
        assert_eq!(judge(json!(1)), Reading::Within);
        assert_eq!(judge(json!(-1.0)), Reading::Within);
        let above = Reading::Outside("g is 1.5, above 1".to_owned());
        assert_eq!(judge(json!(1.5)), above);
        assert!(matches!(judge(json!(-2)), Reading::Outside(_)));
        assert!(matches!(judge(json!("1")), Reading::Unreadable(_)));
        let open = Range::default();
        assert_eq!(open.judge("g", &Ok(json!({ "g": 1e9 }))), Reading::Within);
    }
}
