use super::*;

fn describe(bytes: &[u8]) -> Result<String, ModelRefusal> {
    read(bytes).map(|outline| outline.to_string())
}

fn tensor(name: &str, kind: i32, dims: &[(i64, &str)]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|(value, name)| DimensionProto {
            dim_value: (*value > 0).then_some(*value),
            dim_param: (!name.is_empty()).then(|| (*name).to_owned()),
        })
        .collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(kind),
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
    }
}

fn model(format: i64, opsets: &[(&str, i64)]) -> ModelProto {
    ModelProto {
        ir_version: Some(format),
        producer_name: Some("test".to_owned()),
        graph: Some(GraphProto {
            node: vec![NodeProto {
                op_type: Some("Add".to_owned()),
            }],
            name: Some("g".to_owned()),
            initializer: vec![TensorProto {
                name: Some("w".to_owned()),
            }],
            input: vec![
                tensor("x", 1, &[(0, "batch"), (3, ""), (-1, "")]),
                tensor("w", 1, &[(3, "")]),
            ],
            output: vec![tensor("y", 7, &[])],
        }),
        opset_import: opsets
            .iter()
            .map(|(domain, version)| OperatorSetIdProto {
                domain: Some((*domain).to_owned()),
                version: Some(*version),
            })
            .collect(),
    }
}

#[test]
fn shows_inputs_without_weights() {
    let bytes = model(8, &[("", 17), ("com.microsoft", 99)]).encode_to_vec();
    let words = describe(&bytes).expect("runs");
    assert_eq!(words, "x: f32[batch,3,?] -> y: i64[]; opset 17");
}

#[test]
fn refuses_newer_opsets_and_names_both() {
    describe(&model(14, &[("", 28), ("ai.onnx.ml", 5)]).encode_to_vec())
        .expect("the newest that runs");
    let refusal = |format, opsets: &[(&str, i64)]| {
        let bytes = model(format, opsets).encode_to_vec();
        describe(&bytes).expect_err("refused").to_string()
    };
    assert_eq!(
        refusal(8, &[("", 29)]),
        "the model is built on operator set 29 of ai.onnx, and the runtime's ONNX Runtime 1.32 knows up to 28: export it again with opset_version=28 or lower"
    );
    assert!(refusal(8, &[("ai.onnx", 17), ("ai.onnx.ml", 6)]).contains("6 of ai.onnx.ml"));
    assert!(refusal(15, &[("", 17)]).contains("format version 15"));
}

#[test]
fn refuses_damaged_models() {
    let whole = model(8, &[("", 17)]).encode_to_vec();
    let cut = &whole[..whole.len() / 2];
    for (bytes, why) in [
        (&b""[..], "no format version"),
        (b"not a model at all", "damaged"),
        (cut, "damaged"),
        (&model(8, &[]).encode_to_vec(), "names no operator set"),
        (
            &ModelProto {
                graph: None,
                ..model(8, &[("", 17)])
            }
            .encode_to_vec(),
            "no graph",
        ),
    ] {
        let refusal = describe(bytes).expect_err("refused").to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_bring_it_down(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = describe(&bytes);
    }
}
