use super::*;

fn record(time_ms: u64, encoding: Encoding, value: &[u8]) -> Record {
    Record {
        time_ms,
        encoding,
        value: Bytes::copy_from_slice(value),
    }
}

fn table(records: Vec<Record>) -> Table {
    Table {
        node: NodeId::new("n1").unwrap(),
        stream: StreamName::new("vibration").unwrap(),
        epoch: 7,
        first: 41,
        records,
    }
}

#[test]
fn every_record_reads_back_as_it_was() {
    let records = vec![
        record(
            1_764_028_800_123,
            Encoding::Json,
            br#"{"t": 21.5, "ok": true, "n": 3}"#,
        ),
        record(5, Encoding::Json, b"\"text\""),
        record(0, Encoding::Cbor, &[0xa1, 0x61, b't', 0xf9, 0x4d, 0x00]),
        record(1_764_028_800_124, Encoding::Bytes, &[0xff, 0, 1]),
        record(1_764_028_800_125, Encoding::Json, &[b'"', 0xff, b'"']),
        record(1_764_028_800_126, Encoding::Bytes, b""),
    ];
    let file = table(records.clone())
        .encode(&mut Shape::default(), 100)
        .unwrap();
    let read = decode(file.into(), &mut Shape::default()).unwrap();
    let expected: Vec<_> = (41..).zip(records).collect();
    assert_eq!(read, expected);
}

#[test]
fn row_groups_hold_what_belongs_to_them() {
    let rows = GROUP_ROWS + 10;
    let text = |row: usize| match row % 3 {
        0 => format!("{{\"a\":{row}}}"),
        1 => format!("{{\"b\":\"{row}\"}}"),
        _ => row.to_string(),
    };
    let records: Vec<_> = (0..rows)
        .map(|row| {
            record(
                1_764_028_800_000 + row as u64,
                Encoding::Json,
                text(row).as_bytes(),
            )
        })
        .collect();
    let file = Bytes::from(
        table(records.clone())
            .encode(&mut Shape::default(), 100)
            .unwrap(),
    );
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    assert_eq!(reader.num_row_groups(), 2);
    let mut row = 0;
    for at in 0..2 {
        let group = reader.get_row_group(at).unwrap();
        for cell in read::<Int64Type>(&*group, "a").unwrap() {
            let expected = (row % 3 == 0).then(|| i64::try_from(row).unwrap());
            assert_eq!(cell, expected);
            row += 1;
        }
    }
    assert_eq!(row, rows);
    assert_eq!(decode(file, &mut Shape::default()).unwrap().len(), rows);
}

#[test]
fn a_footer_tells_which_fields_are_fractional() {
    let records = vec![record(1, Encoding::Json, br#"{"t":1.5,"n":1}"#)];
    let file = table(records).encode(&mut Shape::default(), 100).unwrap();
    let reader = SerializedFileReader::new(Bytes::from(file)).unwrap();
    let mut shape = Shape::default();
    learn(reader.metadata(), &mut shape);
    let columns = shape.columns(&[record(1, Encoding::Json, br#"{"t":1,"n":1}"#)], 100);
    let types: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.of)).collect();
    assert_eq!(types, [("n", Type::Int), ("t", Type::Double)]);
}

#[test]
fn what_is_no_file_of_ours_is_an_error() {
    assert!(decode(Bytes::from_static(b"PAR1PAR1"), &mut Shape::default()).is_err());
    assert!(decode(Bytes::new(), &mut Shape::default()).is_err());
}
