use proptest::prelude::*;

use super::*;

fn info(shape: &[i64], datatype: DataType) -> TensorInfo {
    TensorInfo {
        name: "x".into(),
        datatype,
        shape: shape.to_vec(),
    }
}

#[test]
fn a_header_length_beyond_the_body_is_refused() {
    let error = decode(&Bytes::from_static(b"{}"), Some(3), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Inference-Header-Content-Length is 3, but the body has only 2 bytes"
    );
}

#[test]
fn order_and_unknown_members_do_not_matter() {
    let body = br#"{"extra":{"a":[1]},"inputs":[{"data":[[1],[2]],"parameters":{"zz":true},"datatype":"INT8","shape":[2,1],"name":"x"}],"parameters":{"priority":3}}"#;
    let decoded = decode(&Bytes::from_static(body), None, &[]).unwrap();
    assert_eq!(decoded.request.inputs[0].data, Bytes::from_static(&[1, 2]));
    assert_eq!(decoded.request.deadline, None);
}

#[test]
fn a_raw_body_fills_the_one_free_dimension_beside_the_batch() {
    let shape = |shape: &[i64], bytes: usize| {
        let body = Bytes::from(vec![0; bytes]);
        decode(&body, Some(0), &[info(shape, DataType::Fp32)])
            .map(|decoded| decoded.request.inputs[0].shape.clone())
    };
    assert_eq!(shape(&[-1, 4], 32).unwrap(), [2, 4]);
    assert_eq!(shape(&[-1, 3, -1], 24).unwrap(), [1, 3, 2]);
    assert_eq!(shape(&[2, 2], 16).unwrap(), [2, 2]);
    assert!(shape(&[-1, -1, -1], 16).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused_but_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), length in proptest::option::of(0..220_usize)) {
        let _ = decode(&Bytes::from(body), length, &[info(&[-1, 3], DataType::Int16)]);
    }

    #[test]
    fn any_framing_of_a_good_request_is_taken_or_refused_but_never_panics(
        size in any::<u16>(), dims in proptest::collection::vec(-2..5_i64, 0..4), cut in 0..300_usize, tail in 0..64_usize,
    ) {
        let json = serde_json::json!({"inputs": [
            {"name": "x", "shape": dims, "datatype": "UINT8", "parameters": {"binary_data_size": size % 80}},
        ]}).to_string();
        let body = Bytes::from([json.as_bytes(), &vec![7; tail]].concat());
        let length = if cut % 2 == 0 { json.len() } else { cut };
        if let Ok(decoded) = decode(&body, Some(length), &[]) {
            // What is taken has used up every byte behind the JSON.
            prop_assert!(length == 0 || decoded.request.inputs.iter().map(|input| input.data.len()).sum::<usize>() == body.len() - length);
        }
    }

    #[test]
    fn binary_data_arrives_as_it_was_sent(blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..4)) {
        let inputs: Vec<_> = blobs.iter().enumerate().map(|(at, blob)| serde_json::json!(
            {"name": at.to_string(), "shape": [blob.len()], "datatype": "UINT8", "parameters": {"binary_data_size": blob.len()}}
        )).collect();
        let json = serde_json::json!({"inputs": inputs}).to_string();
        let body = Bytes::from([json.as_bytes(), &blobs.concat()].concat());
        let decoded = decode(&body, Some(json.len()), &[]).unwrap();
        let got: Vec<_> = decoded.request.inputs.iter().map(|input| input.data.to_vec()).collect();
        prop_assert_eq!(got, blobs);
    }
}
