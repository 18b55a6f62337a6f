use proptest::prelude::*;

use super::super::onnx::TensorOutline;
use super::*;

fn value(name: &str, element: i32, shape: Option<Vec<Dimension>>) -> ValueOutline {
    ValueOutline {
        name: name.to_owned(),
        tensor: Some(TensorOutline { element, shape }),
    }
}

/// x: f32[batch,2], word: string[?] -> y: f32[batch,1], sure: bool[], half: f16[1]
fn model() -> Outline {
    let batch = || Dimension::Free(Some("batch".to_owned()));
    Outline::of(
        vec![
            value("x", 1, Some(vec![batch(), Dimension::Fixed(2)])),
            value("word", 8, Some(vec![Dimension::Free(None)])),
        ],
        vec![
            value("y", 1, Some(vec![batch(), Dimension::Fixed(1)])),
            value("sure", 9, Some(vec![])),
            value("half", 10, Some(vec![Dimension::Fixed(1)])),
        ],
    )
}

const GOOD: &str = r#"{"tolerance": 1e-4, "cases": [{
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [-3, 4e2]]},
        {"name": "word", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [0.5, "NaN"], "tolerance": 0},
        {"name": "half", "datatype": "FP16", "shape": [1], "base64": "AAA="},
        {"name": "sure", "datatype": "BOOL", "shape": [], "data": true}]}]}"#;

#[test]
fn takes_cases_that_the_model_could_answer() {
    check(GOOD, &model()).expect("fits");
}

#[test]
fn says_what_does_not_fit_and_where() {
    let refusal = |from: &str, to: &str| {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from} is not there");
        check(&text, &model()).expect_err(to).to_string()
    };
    let refusals = [
        refusal("\"tolerance\": 1e-4", "\"tolerence\": 1e-4"),
        refusal("1e-4", "-1"),
        refusal("\"name\": \"x\"", "\"name\": \"z\""),
        refusal("\"name\": \"sure\"", "\"name\": \"y\""),
        refusal(
            "\"name\": \"word\", \"datatype\": \"BYTES\"",
            "\"name\": \"x\", \"datatype\": \"FP32\"",
        ),
        refusal(
            ",\n        {\"name\": \"word\", \"datatype\": \"BYTES\", \"shape\": [1], \"data\": [\"a\"]}",
            "",
        ),
        refusal(
            "\"x\", \"datatype\": \"FP32\"",
            "\"x\", \"datatype\": \"FP64\"",
        ),
        refusal("\"base64\": \"AAA=\"", "\"data\": [0]"),
        refusal(", \"base64\": \"AAA=\"", ""),
        refusal("AAA=", "AAAA"),
        refusal("AAA=", "no base64"),
        refusal("[2, 2]", "[2, 3]"),
        refusal("[2, 2]", "[4]"),
        refusal("[2, 2]", "[-2, 2]"),
        refusal("[-3, 4e2]", "[-3]"),
        refusal("4e2", "\"4\""),
        refusal("4e2", "null"),
        refusal("true}", "0.5}"),
        refusal("true}", "\"NaN\"}"),
        refusal("[\"a\"]", "[7]"),
        refusal("[\"a\"]", "\"a\""),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn refuses_what_proves_nothing() {
    let refusal = |text| check(text, &model()).expect_err("refused").to_string();
    insta::assert_snapshot!(refusal(r#"{"cases": []}"#), @"it has no cases");
    insta::assert_snapshot!(refusal(r#"{"cases": [{"inputs": [], "outputs": []}]}"#), @"case 1 expects no outputs");
    insta::assert_snapshot!(refusal("[]"), @"it is not a JSON document of golden cases: invalid length 0, expected struct Golden with 2 elements at line 1 column 2");
    insta::assert_snapshot!(refusal("{"), @"it is not a JSON document of golden cases: EOF while parsing an object at line 1 column 1");
}

proptest! {
    #[test]
    fn no_text_brings_it_down(text in "[\\[\\]{}:,\"a-z0-9 .-]{0,80}") {
        let _ = check(&text, &model());
        let _ = check(&GOOD.replace("[true]", &text), &model());
    }
}
