use bytes::Bytes;
use fleet_api::ids::Digest;
use fleet_api::model_files::PinnedFile;

use super::*;

fn beside(role: FileRole, name: &str, content: impl Into<Bytes>) -> Beside {
    let content = content.into();
    Beside {
        file: PinnedFile {
            role,
            name: FileName::new(name).unwrap(),
            digest: Digest::of(&content),
            size: content.len() as u64,
        },
        content,
    }
}

/// A model in bytes, of which only a tensor that lies in `location` matters.
fn model(location: Option<&str>) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let len = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, len], content].concat()
    };
    let entry = |key: &str, value: &str| {
        let entry = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
        field(13, &entry)
    };
    let tensor = location.map_or_else(Vec::new, |location| {
        let place = [entry("location", location), entry("length", "8")].concat();
        field(5, &[&place[..], &[14 << 3, 1]].concat())
    });
    field(7, &tensor)
}

fn outline() -> Outline {
    Outline::of(Vec::new(), Vec::new())
}

fn refusal(location: Option<&str>, files: &[Beside]) -> String {
    let refused = check(&model(location), &outline(), files);
    refused.expect_err("refused").to_string()
}

#[test]
fn takes_files_that_are_what_they_are_called() {
    let files = [
        beside(FileRole::Card, "m.card.toml", "[image]\ninput = \"x\"\n"),
        beside(FileRole::Labels, "m.labels.txt", "good\nbad\n"),
        beside(FileRole::Data, "w/a.bin", vec![0; 8]),
    ];
    check(&model(Some("./w/a.bin")), &outline(), &files).expect("all fit");
    check(&model(None), &outline(), &[]).expect("a model needs no files");
}

#[test]
fn refuses_files_that_are_something_else_by_their_name() {
    let card = |content: &'static str| beside(FileRole::Card, "m.card.toml", content);
    insta::assert_snapshot!(refusal(None, &[card("[image]\ninput = \n")]), @"m.card.toml is not valid TOML: line 2: string values must be quoted, expected literal string");
    let long = beside(FileRole::Card, "m.card.toml", vec![b'#'; 70_000]);
    insta::assert_snapshot!(refusal(None, &[long]), @"m.card.toml is larger than 64KiB, the most for card");
    let latin = beside(FileRole::Labels, "m.labels.txt", &b"gut\xfc\n"[..]);
    insta::assert_snapshot!(refusal(None, &[latin]), @"m.labels.txt is not UTF-8 text");
    let blank = beside(FileRole::Labels, "m.labels.txt", "\n \n");
    insta::assert_snapshot!(refusal(None, &[blank]), @"m.labels.txt names no class: write the name of one class a line");
    let golden = beside(FileRole::Golden, "m.golden.json", "{\"cases\": []}");
    insta::assert_snapshot!(refusal(None, &[golden]), @"m.golden.json: it has no cases");
}

#[test]
fn wants_the_data_that_the_model_refers_to_and_no_other() {
    let data = |name, size: usize| beside(FileRole::Data, name, vec![0; size]);
    insta::assert_snapshot!(refusal(Some("w.bin"), &[]), @"the model keeps weights in w.bin, which is not among the files that were pushed: push it with the model, as a layer of type application/vnd.edge.model.data.v1 with that title");
    insta::assert_snapshot!(refusal(Some("w.bin"), &[data("w.bin", 8), data("x.bin", 8)]), @"x.bin is pushed as the model's data, and the model does not refer to it: it refers to w.bin");
    insta::assert_snapshot!(refusal(None, &[data("x.bin", 8)]), @"x.bin is pushed as the model's data, and the model does not refer to it: it has all its weights in the ONNX file");
    insta::assert_snapshot!(refusal(Some("w.bin"), &[data("w.bin", 7)]), @"w.bin has 7 bytes, and the model reads up to byte 8 of it");
    insta::assert_snapshot!(refusal(Some("../w.bin"), &[data("w.bin", 8)]), @r#"the model's external data cannot be found: tensor "" lies where no file of the model may lie: file name "../w.bin" leaves the model's folder"#);
}
