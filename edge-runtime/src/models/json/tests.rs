use proptest::prelude::*;

use super::*;

fn tensor(datatype: DataType, count: usize, data: Bytes) -> Tensor {
    Tensor {
        name: "x".into(),
        datatype,
        shape: vec![i64::try_from(count).unwrap()],
        data,
    }
}

fn encoded(tensor: &Tensor) -> String {
    let mut out = Vec::new();
    assert!(encode(&mut out, tensor));
    String::from_utf8(out).unwrap()
}

fn floats(json: &str, count: usize) -> Result<Vec<f32>, DataError> {
    let data = decode(DataType::Fp32, count, json)?;
    Ok(data
        .as_chunks()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect())
}

#[test]
fn nested_and_flat_data_mean_the_same() {
    let flat = decode(DataType::Int64, 6, "[1,2,3,4,5,6]").unwrap();
    assert_eq!(
        decode(DataType::Int64, 6, "[[1, 2, 3],\n [4,5,6]]").unwrap(),
        flat
    );
    assert_eq!(decode(DataType::Int64, 0, "[[],[]]").unwrap(), Bytes::new());
}

#[test]
fn the_number_of_elements_must_fit_the_shape() {
    let error = decode(DataType::Fp32, 3, "[1,2]").unwrap_err();
    assert_eq!(
        error.to_string(),
        "has 2 elements, expected 3 for its shape"
    );
    assert!(decode(DataType::Fp32, 1, "[1,2]").is_err());
    assert_eq!(
        decode(DataType::Fp32, 1, "7").unwrap_err(),
        DataError::NoArray
    );
}

#[test]
fn an_element_of_another_kind_is_named() {
    let cases = [
        (
            DataType::Fp32,
            "[1.0,\"a b\"]",
            "has \"a b\" as element 1, expected a number within FP32",
        ),
        (
            DataType::Fp32,
            "[null]",
            "has null as element 0, expected a number within FP32",
        ),
        (
            DataType::Fp32,
            "[1e39]",
            "has 1e39 as element 0, expected a number within FP32",
        ),
        (
            DataType::Uint8,
            "[256]",
            "has 256 as element 0, expected an integer from 0 to 255",
        ),
        (
            DataType::Int32,
            "[1.5]",
            "has 1.5 as element 0, expected an integer within INT32",
        ),
        (
            DataType::Bool,
            "[true,2]",
            "has 2 as element 1, expected true or false",
        ),
        (
            DataType::Bytes,
            "[1]",
            "has 1 as element 0, expected a string",
        ),
        (
            DataType::Fp64,
            "[{\"a\":1}]",
            "has {\"a\" as element 0, expected a number within FP64",
        ),
    ];
    for (datatype, json, message) in cases {
        assert_eq!(decode(datatype, 2, json).unwrap_err().to_string(), message);
    }
    assert!(matches!(
        decode(DataType::Fp16, 1, "[1]"),
        Err(DataError::NoJsonForm(_))
    ));
}

#[test]
fn a_count_that_lies_reserves_no_memory() {
    assert!(matches!(
        decode(DataType::Fp64, 1 << 50, "[1]"),
        Err(DataError::Count { got: 1, .. })
    ));
}

#[test]
fn what_is_not_finite_is_written_as_null() {
    let data: Vec<u8> = [1.5_f32, f32::NAN, f32::INFINITY, -0.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(
        encoded(&tensor(DataType::Fp32, 4, data.into())),
        "[1.5,null,null,-0.0]"
    );
}

#[test]
fn strings_keep_escapes_and_emptiness() {
    let data = decode(DataType::Bytes, 3, r#"[["a\"\u00e9\\", ""], ["x,]y"]]"#).unwrap();
    let tensor = tensor(DataType::Bytes, 3, data);
    assert_eq!(
        tensor.strings().collect::<Vec<_>>(),
        ["a\"é\\".as_bytes(), b"", b"x,]y"]
    );
    assert_eq!(encoded(&tensor), "[\"a\\\"é\\\\\",\"\",\"x,]y\"]");
    assert!(decode(DataType::Bytes, 1, r#"["\ud800"]"#).is_err());
}

#[test]
fn floats_round_once_at_the_hard_places() {
    // Just above and below the middle of two floats, where rounding by way of a double goes wrong.
    for text in [
        "1.00000017881393432617187499",
        "1.00000017881393432617187501",
        "1.000000178813934326",
        "16777217",
    ] {
        assert_eq!(
            floats(&format!("[{text}]"), 1).unwrap(),
            [text.parse::<f32>().unwrap()],
            "{text}"
        );
    }
    for text in [
        "0",
        "-0",
        "1e-45",
        "1.1754942e-38",
        "3.4028235e38",
        "123456789012345678901234567890",
        "1E+2",
        "1e-400",
    ] {
        assert_eq!(
            floats(&format!("[{text}]"), 1).unwrap(),
            [text.parse::<f32>().unwrap()],
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn every_finite_float_survives_a_round_trip(bits in proptest::collection::vec(any::<u32>(), 0..50)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|value| value.is_finite()).collect();
        let data: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into();
        let json = encoded(&tensor(DataType::Fp32, values.len(), data.clone()));
        prop_assert_eq!(decode(DataType::Fp32, values.len(), &json).unwrap(), data);
    }

    #[test]
    fn every_finite_double_survives_a_round_trip(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let data = Bytes::copy_from_slice(&value.to_le_bytes());
        let json = encoded(&tensor(DataType::Fp64, 1, data.clone()));
        prop_assert_eq!(decode(DataType::Fp64, 1, &json).unwrap(), data);
    }

    #[test]
    fn decimals_read_as_the_standard_library_reads_them(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?") {
        let wanted: f32 = text.parse().unwrap();
        match floats(&format!("[{text}]"), 1) {
            Ok(got) => prop_assert_eq!(got[0].to_bits(), wanted.to_bits()),
            Err(_) => prop_assert!(wanted.is_infinite()),
        }
        let wanted: f64 = text.parse().unwrap();
        let got = decode(DataType::Fp64, 1, &format!("[{text}]")).unwrap();
        prop_assert_eq!(&got[..], &wanted.to_le_bytes()[..]);
    }

    #[test]
    fn bytes_of_every_fixed_type_survive_a_round_trip(raw in proptest::collection::vec(any::<u8>(), 0..64), at in 0..9_usize) {
        let datatype = [
            DataType::Bool, DataType::Uint8, DataType::Uint16, DataType::Uint32, DataType::Uint64,
            DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64,
        ][at];
        let count = raw.len() / datatype.size().unwrap();
        let mut raw = raw[..count * datatype.size().unwrap()].to_vec();
        if datatype == DataType::Bool {
            raw.iter_mut().for_each(|byte| *byte &= 1);
        }
        let tensor = tensor(datatype, count, raw.into());
        prop_assert_eq!(decode(datatype, count, &encoded(&tensor)).unwrap(), tensor.data);
    }

    #[test]
    fn strings_survive_a_round_trip(texts in proptest::collection::vec(any::<String>(), 0..8)) {
        let mut data = Vec::new();
        texts.iter().for_each(|text| push_string(&mut data, text.as_bytes()));
        let tensor = tensor(DataType::Bytes, texts.len(), data.into());
        prop_assert_eq!(decode(DataType::Bytes, texts.len(), &encoded(&tensor)).unwrap(), tensor.data);
    }

    #[test]
    fn any_json_value_is_taken_or_refused_but_never_panics(text in "[\\[\\]{}0-9eE.,+\" \\\\a-z-]{0,40}", at in 0..14_usize) {
        if let Ok(value) = serde_json::from_str::<&serde_json::value::RawValue>(&text) {
            let _ = decode(DataType::ALL[at], 3, value.get());
        }
    }
}
