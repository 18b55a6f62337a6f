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

/// Reads `count` elements, flat or nested in any way that fits a shape.
fn decode(datatype: DataType, count: usize, json: &str) -> Result<Bytes, DataError> {
    let count = i64::try_from(count).unwrap();
    decode_as(datatype, &[count], json)
}

fn decode_as(datatype: DataType, shape: &[i64], json: &str) -> Result<Bytes, DataError> {
    let (data, length) = super::decode(datatype, shape, json.as_bytes())?;
    assert_eq!(&json[length..], "");
    Ok(data)
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
    let cases = [
        (&[2, 3][..], "[[1, 2, 3],\n [4,5,6] ]"),
        (&[2, 3], "[1,2,3,4,5,6]"),
        (&[3, 2, 1], "[[[1],[2]],[[3],[4]],[ [5] , [6]]]"),
        (&[1, 1, 6], "[[[1,2,3,4,5,6]]]"),
        (&[6], " [ 1 , 2,3,4,5,6]"),
    ];
    for (shape, json) in cases {
        assert_eq!(
            decode_as(DataType::Int64, shape, json).unwrap(),
            flat,
            "{json}"
        );
    }
    let scalar = decode_as(DataType::Int64, &[], "7").unwrap();
    assert_eq!(decode_as(DataType::Int64, &[], "[7]").unwrap(), scalar);
}

#[test]
fn no_elements_are_written_in_any_nesting() {
    for json in ["[]", "[[],[]]", "[ [ ] , [ ] ]", "[[[]],[[]]]"] {
        assert_eq!(
            decode_as(DataType::Int64, &[2, 0, 3], json).unwrap(),
            Bytes::new()
        );
    }
    for json in [
        "[1]", "[[],[1]]", "[[],]", "[[] []]", "[,]", "[[],[]", "[", "", "0",
    ] {
        assert!(decode_as(DataType::Int64, &[2, 0], json).is_err(), "{json}");
    }
}

#[test]
fn brackets_that_contradict_the_shape_are_refused() {
    let cases = [
        (
            &[2, 2][..],
            "[[1,2],[3]]",
            "has 1 elements along dimension 1 before element 3, expected 2 for shape [2, 2]",
        ),
        (
            &[2, 2],
            "[[1,2,3],[4]]",
            "has 3 elements along dimension 1 before element 3, expected 2 for shape [2, 2]",
        ),
        (
            &[3, 2],
            "[[1,2,3],[4,5,6]]",
            "has 3 elements along dimension 1 before element 3, expected 2 for shape [3, 2]",
        ),
        (
            &[3, 2],
            "[[1,2],[3,4]]",
            "has 2 elements along dimension 0 before element 4, expected 3 for shape [3, 2]",
        ),
        (
            &[1, 2],
            "[[1,2],[3,4]]",
            "has 2 elements along dimension 0 before element 4, expected 1 for shape [1, 2]",
        ),
        (
            &[6],
            "[[1,2,3],[4,5,6]]",
            "has data in 2 levels of brackets, expected 1 (flat) or 1 for shape [6]",
        ),
        (
            &[1, 2, 3],
            "[[1,2,3],[4,5,6]]",
            "has data in 2 levels of brackets, expected 1 (flat) or 3 for shape [1, 2, 3]",
        ),
        (
            &[2, 2],
            "[[1,2],3,4]",
            "has 3 as element 2, expected a list like those before it",
        ),
        (
            &[2, 2],
            "[1,2,[3,4]]",
            "has [3 as element 2, expected an integer within INT32",
        ),
        (&[2], "[1,2", "has data that does not end"),
        (
            &[2],
            "[1 2]",
            "has 2 behind its first 1 elements, expected ',' or ']'",
        ),
        (
            &[2],
            "[1,]",
            "has ] as element 1, expected an integer within INT32",
        ),
        (
            &[2],
            "[1,,2]",
            "has , as element 1, expected an integer within INT32",
        ),
        (
            &[1],
            "[01]",
            "has 01 as element 0, expected an integer within INT32",
        ),
        (
            &[1],
            "[+1]",
            "has +1 as element 0, expected an integer within INT32",
        ),
        (
            &[1],
            "[1.0]",
            "has 1.0 as element 0, expected an integer within INT32",
        ),
    ];
    for (shape, json, message) in cases {
        let error = decode_as(DataType::Int32, shape, json).unwrap_err();
        assert_eq!(error.to_string(), message, "{json}");
    }
    let deep = "[".repeat(1 << 20);
    let error = decode_as(DataType::Int32, &[1], &deep).unwrap_err();
    assert_eq!(
        error,
        DataError::Depth {
            got: 1 << 20,
            shape: vec![1]
        }
    );
}

#[test]
fn integers_keep_to_their_ranges() {
    for (datatype, good, bad) in [
        (DataType::Uint8, "[0,255,-0]", "[-1]"),
        (DataType::Int8, "[-128,127,0]", "[128]"),
        (
            DataType::Uint64,
            "[18446744073709551615,0,1]",
            "[18446744073709551616]",
        ),
        (
            DataType::Int64,
            "[-9223372036854775808,9223372036854775807,0]",
            "[9223372036854775808]",
        ),
        (DataType::Int64, "[0,1,2]", "[-9223372036854775809]"),
        (
            DataType::Uint64,
            "[0,1,2]",
            "[100000000000000000000000000000]",
        ),
    ] {
        assert!(decode(datatype, 3, good).is_ok(), "{good}");
        assert!(decode(datatype, 1, bad).is_err(), "{bad}");
    }
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
            "has \"a b\" as element 1, expected a number within FP32, \"NaN\", \"Infinity\" or \"-Infinity\"",
        ),
        (
            DataType::Fp32,
            "[null]",
            "has null as element 0, expected a number within FP32, \"NaN\", \"Infinity\" or \"-Infinity\"",
        ),
        (
            DataType::Fp32,
            "[1e39]",
            "has 1e39 as element 0, expected a number within FP32, \"NaN\", \"Infinity\" or \"-Infinity\"",
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
            "has 1 as element 0, expected a string of valid Unicode",
        ),
        (
            DataType::Fp64,
            "[{\"a\":1}]",
            "has {\"a\" as element 0, expected a number within FP64, \"NaN\", \"Infinity\" or \"-Infinity\"",
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
fn what_is_not_finite_is_a_string_both_ways() {
    let values = [1.5_f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let json = r#"[1.5,"NaN","Infinity","-Infinity",-0.0]"#;
    assert_eq!(
        encoded(&tensor(DataType::Fp32, 5, data.clone().into())),
        json
    );
    assert_eq!(decode(DataType::Fp32, 5, json).unwrap(), data);
    let bare = json.replace('"', "");
    assert_eq!(decode(DataType::Fp32, 5, &bare).unwrap(), data);
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| f64::from(*value).to_le_bytes())
        .collect();
    assert_eq!(
        encoded(&tensor(DataType::Fp64, 5, data.clone().into())),
        json
    );
    assert_eq!(decode(DataType::Fp64, 5, json).unwrap(), data);
    for other in [
        "[nan]",
        "[\"nan\"]",
        "[inf]",
        "[+Infinity]",
        "[\"\"]",
        "[NaNN]",
    ] {
        assert!(decode(DataType::Fp32, 1, other).is_err(), "{other}");
    }
}

#[test]
fn strings_keep_escapes_and_emptiness() {
    let data = decode_as(
        DataType::Bytes,
        &[3, 1],
        r#"[["a\"\u00e9\\"], [""], ["x,]y"]]"#,
    )
    .unwrap();
    let tensor = tensor(DataType::Bytes, 3, data);
    assert_eq!(
        tensor.strings().collect::<Vec<_>>(),
        ["a\"é\\".as_bytes(), b"", b"x,]y"]
    );
    assert_eq!(encoded(&tensor), "[\"a\\\"é\\\\\",\"\",\"x,]y\"]");
    for broken in [
        r#"["\ud800"]"#,
        "[\"a\nb\"]",
        r#"["\x"]"#,
        r#"["a]"#,
        "[\"a\"b]",
    ] {
        assert!(decode(DataType::Bytes, 1, broken).is_err(), "{broken}");
    }
    assert!(super::decode(DataType::Bytes, &[1], b"[\"\xff\"]").is_err());
}

#[test]
fn floats_round_once_at_the_hard_places() {
    // Just above and below the middle of two floats, where rounding by way of a double goes wrong.
    for text in [
        "1.0000001788139343",
        "1.000000178813934",
        "0.00000000000000000000001000000178813934",
        "340282356779733661637539395458142568447.9",
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
    fn floats_close_to_a_middle_round_as_the_standard_library_rounds_them(
        bits in 0x0080_0000..0x7f7f_ffff_u32, off in -3..=3_i64, digits in 14..19_usize,
    ) {
        // Doubles next to the middle between two floats, cut to some digits.
        let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
        let near = f64::from_bits(middle.to_bits().wrapping_add_signed(off));
        for text in [format!("{near:.digits$}"), format!("{near:.digits$e}"), format!("{near}")] {
            let wanted: f32 = text.parse().unwrap();
            let got = floats(&format!("[{text}]"), 1).map_or(f32::INFINITY, |got| got[0]);
            prop_assert_eq!(got.to_bits(), wanted.to_bits(), "{}", text);
        }
    }

    #[test]
    fn any_text_is_taken_or_refused_as_json_but_never_panics(text in "[\\[\\]{}0-9eE.,+\" \\\\a-z-]{0,40}", at in 0..14_usize, dims in proptest::collection::vec(0..3_i64, 0..3)) {
        if let Ok((_, length)) = super::decode(DataType::ALL[at], &dims, text.as_bytes()) {
            // What is taken is JSON.
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text[..length]).is_ok(), "{}", &text[..length]);
        }
    }

    #[test]
    fn any_nesting_reads_as_serde_reads_it(dims in proptest::collection::vec(1..4_usize, 1..4), change in 0..200_usize, with in "[\\[\\],1 ]") {
        let mut next = 0;
        let mut text = nested(&dims, &mut next).to_string();
        if change < text.len() {
            text.replace_range(change..=change, &with);
        }
        let shape: Vec<i64> = dims.iter().map(|dim| i64::try_from(*dim).unwrap()).collect();
        let flat: Option<Vec<i16>> = serde_json::from_str(&text).ok().and_then(|value| flattened(&value, &dims));
        let got = super::decode(DataType::Int16, &shape, text.as_bytes()).ok().filter(|(_, length)| *length == text.len());
        let got = got.map(|(data, _)| data.as_chunks().0.iter().map(|chunk| i16::from_le_bytes(*chunk)).collect());
        prop_assert_eq!(got, flat, "{}", text);
    }
}

fn nested(dims: &[usize], next: &mut i16) -> serde_json::Value {
    match dims {
        [] => {
            *next += 1;
            (*next).into()
        }
        [dim, rest @ ..] => (0..*dim).map(|_| nested(rest, next)).collect(),
    }
}

/// The elements, if the value is nested like `dims`.
fn flattened(value: &serde_json::Value, dims: &[usize]) -> Option<Vec<i16>> {
    let Some((dim, rest)) = dims.split_first() else {
        return Some(vec![i16::try_from(value.as_i64()?).ok()?]);
    };
    let list = value.as_array()?;
    if list.len() != *dim {
        return None;
    }
    let inner = list.iter().map(|inner| flattened(inner, rest));
    Some(inner.collect::<Option<Vec<_>>>()?.concat())
}
