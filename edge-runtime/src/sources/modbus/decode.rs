use fleet_api::source::{ByteOrder, ModbusType, ModbusValue};
use serde_json::Value;

use crate::sources::reading::number;

/// What a device answered to one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Registers {
    Bits(Vec<bool>),
    Words(Vec<u16>),
}

/// The value in registers that begin at `start`; null where it is not there or is no number.
pub(super) fn value(value: &ModbusValue, start: u16, registers: &Registers) -> Value {
    let at = usize::from(value.register.address - start);
    let words = match registers {
        Registers::Bits(bits) => return bits.get(at).map_or(Value::Null, |&bit| bit.into()),
        Registers::Words(words) => words,
    };
    let kind = value.kind();
    let Some(words) = words.get(at..at + usize::from(kind.registers())) else {
        return Value::Null;
    };
    let raw = joined(words, value.order);
    let plain = value.scale == 1.0 && value.offset == 0.0;
    let scaled = |raw: f64| number(raw * value.scale + value.offset);
    match kind {
        ModbusType::Bool => (raw != 0).into(),
        // Whole numbers stay whole: a counter of 64 bits has more digits than a float.
        ModbusType::U16 | ModbusType::U32 if plain => raw.into(),
        ModbusType::U16 | ModbusType::U32 => scaled(raw as f64),
        ModbusType::I16 => whole(i64::from(raw as u16 as i16), plain, scaled),
        ModbusType::I32 => whole(i64::from(raw as u32 as i32), plain, scaled),
        ModbusType::I64 => whole(raw as i64, plain, scaled),
        ModbusType::F32 => scaled(f64::from(f32::from_bits(raw as u32))),
        ModbusType::F64 => scaled(f64::from_bits(raw)),
    }
}

fn whole(raw: i64, plain: bool, scaled: impl Fn(f64) -> Value) -> Value {
    if plain {
        raw.into()
    } else {
        scaled(raw as f64)
    }
}

/// The registers' bits as one number, the highest first.
fn joined(words: &[u16], order: ByteOrder) -> u64 {
    let swap_words = matches!(order, ByteOrder::Cdab | ByteOrder::Dcba);
    let swap_bytes = matches!(order, ByteOrder::Badc | ByteOrder::Dcba);
    let join = |joined: u64, word: &u16| {
        let word = if swap_bytes { word.swap_bytes() } else { *word };
        joined << 16 | u64::from(word)
    };
    if swap_words {
        words.iter().rev().fold(0, join)
    } else {
        words.iter().fold(0, join)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decoded(keys: serde_json::Value, words: &[u16]) -> Value {
        let mut entry = json!({ "name": "v", "register": "holding:10" });
        entry
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let entry: ModbusValue = serde_json::from_value(entry).unwrap();
        value(&entry, 10, &Registers::Words(words.to_vec()))
    }

    #[test]
    fn every_type_is_read_as_it_is_written() {
        assert_eq!(decoded(json!({}), &[65_535]), json!(65_535));
        assert_eq!(decoded(json!({ "type": "i16" }), &[65_535]), json!(-1));
        assert_eq!(decoded(json!({ "type": "bool" }), &[2]), json!(true));
        assert_eq!(
            decoded(json!({ "type": "u32" }), &[0xffff, 0xfffe]),
            json!(4_294_967_294_u32)
        );
        assert_eq!(
            decoded(json!({ "type": "i32" }), &[0xffff, 0xfffe]),
            json!(-2)
        );
        assert_eq!(
            decoded(json!({ "type": "i64" }), &[0x8000, 0, 0, 1]),
            json!(-9_223_372_036_854_775_807_i64)
        );
        assert_eq!(
            decoded(json!({ "type": "f32" }), &[0x41ac, 0x0000]),
            json!(21.5)
        );
        assert_eq!(
            decoded(json!({ "type": "f64" }), &[0x4035, 0x8000, 0, 0]),
            json!(21.5)
        );
    }

    #[test]
    fn bytes_stand_in_any_of_the_four_orders() {
        for (order, words) in [
            ("abcd", [0x41ac, 0x0001]),
            ("cdab", [0x0001, 0x41ac]),
            ("badc", [0xac41, 0x0100]),
            ("dcba", [0x0100, 0xac41]),
        ] {
            let keys = json!({ "type": "u32", "order": order });
            assert_eq!(decoded(keys, &words), json!(0x41ac_0001), "{order}");
        }
    }

    #[test]
    fn scale_and_offset_apply_and_what_is_no_number_is_null() {
        let keys = json!({ "type": "i16", "scale": 0.5, "offset": -40.0 });
        assert_eq!(decoded(keys, &[100]), json!(10.0));
        let keys = json!({ "type": "f32" });
        assert_eq!(decoded(keys, &[0x7fc0, 0x0000]), Value::Null);
        assert_eq!(decoded(json!({ "type": "u32" }), &[1]), Value::Null);
    }
}
