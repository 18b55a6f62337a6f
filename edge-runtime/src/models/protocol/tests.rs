use proptest::prelude::*;

use super::*;

fn decode(
    body: &Bytes,
    json_length: Option<usize>,
    inputs: &[TensorInfo],
) -> Result<Decoded, ModelError> {
    super::decode(body, json_length, inputs, Instant::now())
}

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
    assert_eq!(decoded.request.priority, Priority::new(3));
}

#[test]
fn priority_and_timeout_are_taken_from_the_parameters() {
    let request = |parameters: &str| {
        let body = format!("{{\"parameters\":{parameters},\"inputs\":[]}}");
        let came = Instant::now();
        let decoded = super::decode(&body.into(), None, &[], came)?;
        let deadline = decoded.request.deadline.map(|deadline| deadline - came);
        Ok::<_, ModelError>((deadline, decoded.request.priority))
    };
    let ms = Duration::from_millis;
    assert_eq!(
        request(r#"{"timeout":2000,"priority":1}"#).unwrap(),
        (Some(ms(2)), Priority::new(1))
    );
    assert_eq!(
        request(r#"{"timeout":0,"priority":0}"#).unwrap(),
        (None, Priority::default())
    );
    assert_eq!(
        request(r#"{"timeout":18446744073709551615,"priority":18446744073709551615}"#).unwrap(),
        (
            Some(Duration::from_micros(u64::MAX)),
            Priority::new(u32::MAX)
        )
    );
    let tolerated = [
        "null",
        "{}",
        r#"{"mine":{"a":[1]},"triton_x":1,"triton_x":2,"headers":"y"}"#,
        r#"{"sequence_id":0,"sequence_start":false,"sequence_end":false}"#,
        r#"{"sequence_id":""}"#,
    ];
    for parameters in tolerated {
        assert!(request(parameters).is_ok(), "{parameters}");
    }
    let cases = [
        (
            r#"{"timeout":"1s"}"#,
            r#"parameter 'timeout' of the request is "1s", expected a number of microseconds"#,
        ),
        (
            r#"{"timeout":-1}"#,
            "parameter 'timeout' of the request is -1, expected a number of microseconds",
        ),
        (
            r#"{"timeout":1.5}"#,
            "parameter 'timeout' of the request is 1.5, expected a number of microseconds",
        ),
        (
            r#"{"priority":true}"#,
            "parameter 'priority' of the request is true, expected a number, 1 for the most urgent",
        ),
        (
            r#"{"binary_data_output":1}"#,
            "parameter 'binary_data_output' of the request is 1, expected true or false",
        ),
        (
            r#"{"timeout":1,"timeout":2}"#,
            "parameter 'timeout' of the request comes twice",
        ),
        (
            r#"{"sequence_id":7}"#,
            "parameter 'sequence_id' asks for a sequence, but models here keep no state between requests",
        ),
        (
            "[]",
            "the request body is not a valid inference request: parameters of the request are no object at line 1 column 15",
        ),
    ];
    for (parameters, message) in cases {
        assert_eq!(request(parameters).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_is_no_request_is_refused_with_its_place() {
    let cases = [
        (
            "",
            "expected an object, but the text ends at line 1 column 1",
        ),
        ("[]", "expected an object at line 1 column 1"),
        (
            "{\n \"id\" 1}",
            "expected ':' behind a member's name at line 2 column 7",
        ),
        (
            r#"{"inputs":[],}"#,
            "nothing follows a comma at line 1 column 14",
        ),
        (
            r#"{"inputs":[]} x"#,
            "more text follows the request's object at line 1 column 15",
        ),
        (r#"{"inputs":{}}"#, "expected a list at line 1 column 11"),
        (
            r#"{"inputs":[],"inputs":[]}"#,
            "member 'inputs' of the request comes twice",
        ),
        (r#"{"inputs":[],"id":7}"#, "its id is 7, expected a string"),
        (
            r#"{"inputs":[],"id":"\ud800"}"#,
            "its id is \"\\ud800\", expected a string",
        ),
        (
            "{\"inputs\":[],\n\"x\":tru}",
            "expected ident at line 2 column 8",
        ),
        (
            r#"{"inputs":[7]}"#,
            "inputs[0] is no object at line 1 column 12",
        ),
        (
            r#"{"inputs":[],"outputs":["y"]}"#,
            "outputs[0] is no object at line 1 column 25",
        ),
        (
            r#"{"inputs":[{"name":"x","name":"x"}]}"#,
            "member 'name' of input 'x' comes twice",
        ),
        (r#"{"id":"1"}"#, "it has no inputs"),
    ];
    for (body, message) in cases {
        let error = decode(&Bytes::from(body), None, &[]).unwrap_err();
        let whole = format!("the request body is not a valid inference request: {message}");
        assert_eq!(error.to_string(), whole, "{body}");
    }
    let deep = format!("{{\"inputs\":[],\"x\":{}", "[".repeat(1 << 20));
    let error = decode(&deep.into(), None, &[]).unwrap_err();
    assert!(
        error.to_string().contains("EOF while parsing a list"),
        "{error}"
    );
    let deep = format!("{{\"parameters\":{{\"timeout\":{}", "[".repeat(1 << 20));
    let error = decode(&deep.into(), None, &[]).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");
}

#[test]
fn an_inputs_members_are_named_when_they_are_wrong() {
    let cases = [
        (
            r#"{"shape":[1],"datatype":"INT8","data":[1]}"#,
            "inputs[0] has no name",
        ),
        (
            r#"{"name":"x","datatype":"INT8","data":[1]}"#,
            "input 'x' has no shape",
        ),
        (
            r#"{"name":"x","shape":[1],"data":[1]}"#,
            "input 'x' has no datatype",
        ),
        (r#"{"name":7}"#, "inputs[0] has name 7, expected a string"),
        (
            r#"{"name":"x","datatype":"INT8","shape":[1.5]}"#,
            "input 'x' has shape [1.5], expected a list of whole numbers",
        ),
        (
            r#"{"shape":"3","datatype":"INT8","name":"x"}"#,
            "input 'x' has shape \"3\", expected a list of whole numbers",
        ),
        (
            r#"{"name":"x","datatype":"INT8","shape":[99999999999999999999]}"#,
            "input 'x' has shape [99999999999999999999], expected a list of whole numbers",
        ),
        (
            r#"{"name":"x","datatype":1}"#,
            "input 'x' has datatype 1, expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","data":{"a":1}}"#,
            "input 'x' has data that is no array",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","data":7}"#,
            "input 'x' has data that is no array",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","data":null}"#,
            "input 'x' has data that is no array",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1],"parameters":{"binary_data_size":1}}"#,
            "input 'x' has both data and binary_data_size, expected one",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":"1"}}"#,
            "parameter 'binary_data_size' of input 'x' is \"1\", expected a number of bytes",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT8","parameters":{"shared_memory_region":"r","shared_memory_byte_size":1}}"#,
            "parameter 'shared_memory_region' of input 'x' asks for shared memory, which is not served; send the data in the body",
        ),
        (
            r#"{"data":[1,[2],"x"],"name":"x","shape":[2],"datatype":"INT8"}"#,
            "input 'x' has [2 as element 1, expected an integer from -128 to 127",
        ),
    ];
    for (input, message) in cases {
        let body = format!("{{\"inputs\":[{input}]}}");
        let error = decode(&body.into(), None, &[]).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let body = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":"yes"}}]}"#;
    let error = decode(&Bytes::from(body), None, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parameter 'binary_data' of output 'y' is \"yes\", expected true or false"
    );
}

#[test]
fn a_scalar_may_stand_without_brackets() {
    for data in ["7", "[7]"] {
        let body =
            format!(r#"{{"inputs":[{{"name":"x","shape":[],"datatype":"INT8","data":{data}}}]}}"#);
        let decoded = decode(&body.into(), None, &[]).unwrap();
        assert_eq!(decoded.request.inputs[0].data, Bytes::from_static(&[7]));
    }
}

#[test]
fn members_may_be_null_where_they_may_be_missing() {
    let body = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":null,"data":[1]}]}"#;
    let decoded = decode(&Bytes::from(body), None, &[]).unwrap();
    assert_eq!(decoded.request.inputs.len(), 1);
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
