use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn json(texts: &[&str]) -> Vec<Record> {
    let record = |text: &&str| Record {
        time_ms: 1,
        encoding: Encoding::Json,
        value: Bytes::copy_from_slice(text.as_bytes()),
    };
    texts.iter().map(record).collect()
}

fn types(texts: &[&str]) -> Vec<(String, Type)> {
    let columns = Shape::default().columns(&json(texts), 100);
    columns.into_iter().map(|c| (c.name, c.of)).collect()
}

fn owned(expected: &[(&str, Type)]) -> Vec<(String, Type)> {
    let owned = expected.iter().map(|(name, of)| ((*name).to_owned(), *of));
    owned.collect()
}

#[test]
fn fields_of_objects_and_of_objects_within_get_columns() {
    let text = r#"{"a":1,"b":true,"c":"x","d":{"e":2.5,"f":{"g":{"h":{"i":1}}}},"l":[1],"n":null}"#;
    let expected = [
        ("a", Type::Int),
        ("b", Type::Bool),
        ("c", Type::Text),
        ("d.e", Type::Double),
    ];
    assert_eq!(types(&[text]), owned(&expected));
    assert_eq!(types(&["1", "\"x\"", "[{\"a\":1}]", "null", "{"]), []);
}

#[test]
fn a_type_widens_and_what_no_type_holds_has_no_column() {
    assert_eq!(
        types(&[r#"{"a":1}"#, r#"{"a":1.5}"#]),
        owned(&[("a", Type::Double)])
    );
    let mixed = [r#"{"a":1}"#, r#"{"a":"n/a"}"#, r#"{"a":2.5}"#];
    let columns = Shape::default().columns(&json(&mixed), 100);
    assert_eq!(columns[0].of, Type::Text);
    let texts: Vec<_> = columns[0]
        .cells
        .iter()
        .map(|(_, c)| c.clone().into_text())
        .collect();
    assert_eq!(texts, ["1", "n/a", "2.5"]);
    assert_eq!(
        types(&[r#"{"a":1}"#, r#"{"a":true}"#, r#"{"a":1,"b":1}"#]),
        owned(&[("b", Type::Int)])
    );
    assert_eq!(
        types(&[r#"{"a":18446744073709551615}"#]),
        owned(&[("a", Type::Double)])
    );
}

#[test]
fn a_field_that_once_had_a_fraction_stays_a_double() {
    let mut shape = Shape::default();
    let first = shape.columns(&json(&[r#"{"a":1}"#]), 100);
    assert_eq!(first[0].of, Type::Int);
    shape.columns(&json(&[r#"{"a":1.5}"#]), 100);
    let later = shape.columns(&json(&[r#"{"a":1}"#]), 100);
    assert_eq!(later[0].of, Type::Double);
}

#[test]
fn a_name_that_a_fixed_column_has_gets_an_underscore() {
    let text = r#"{"node":1,"_node":2,"Value":3,"nodes":4}"#;
    let names: Vec<_> = types(&[text]).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["_Value", "__node", "_node", "nodes"]);
}

#[test]
fn columns_are_bounded() {
    let many: Vec<_> = (0..50).map(|n| format!("{{\"f{n}\":1}}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(Shape::default().columns(&json(&many), 10).len(), 10);
    assert_eq!(Shape::default().columns(&json(&many), 0).len(), 0);
    let long = format!("{{\"{}\":1,\"\":2}}", "x".repeat(MAX_NAME_BYTES + 1));
    assert_eq!(types(&[&long]), []);
}

#[test]
fn cbor_has_the_same_columns() {
    let value = Cbor::Map(vec![
        (Cbor::Text("t".into()), Cbor::Float(21.5)),
        (Cbor::Text("n".into()), Cbor::Integer(u64::MAX.into())),
        (
            Cbor::Text("at".into()),
            Cbor::Tag(1, Box::new(Cbor::Integer(7.into()))),
        ),
        (Cbor::Integer(1.into()), Cbor::Integer(7.into())),
        (Cbor::Text("raw".into()), Cbor::Bytes(vec![1])),
        (
            Cbor::Text("o".into()),
            Cbor::Map(vec![(Cbor::Text("on".into()), Cbor::Bool(true))]),
        ),
    ]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    let record = Record {
        time_ms: 1,
        encoding: Encoding::Cbor,
        value: bytes.into(),
    };
    let columns = Shape::default().columns(&[record], 100);
    let types: Vec<_> = columns.into_iter().map(|c| (c.name, c.of)).collect();
    let expected = [
        ("t", Type::Double),
        ("n", Type::Double),
        ("at", Type::Int),
        ("o.on", Type::Bool),
    ];
    assert_eq!(types, owned(&expected));
}

proptest! {
    /// Whatever comes: no panic, each column's cells fit its type, rows ascend, no name twice.
    #[test]
    fn columns_hold_what_their_type_says(
        values in prop::collection::vec(
            (prop::sample::select(vec!["a", "b.c", "node", "_node", ""]), 0..6u8, any::<i64>()), 0..60),
    ) {
        let texts: Vec<_> = values.iter().map(|(key, what, n)| match what {
            0 => format!("{{\"{key}\":{n}}}"),
            1 => format!("{{\"{key}\":{n}.5}}"),
            2 => format!("{{\"{key}\":\"{n}\"}}"),
            3 => format!("{{\"{key}\":{}}}", n % 2 == 0),
            4 => format!("{{\"{key}\":{{\"c\":{n}}},\"b\":{{\"c\":{n}}}}}"),
            _ => format!("{{\"{key}\":{n}"),
        }).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let columns = Shape::default().columns(&json(&texts), 100);
        let names: BTreeSet<_> = columns.iter().map(|c| c.name.clone()).collect();
        prop_assert_eq!(names.len(), columns.len());
        for column in &columns {
            prop_assert!(column.cells.is_sorted_by(|(a, _), (b, _)| a < b));
            for (_, cell) in &column.cells {
                prop_assert_eq!(column.of.and(cell.of()), Some(column.of));
            }
        }
    }
}
