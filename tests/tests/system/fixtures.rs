use anyhow::Result;
use fleet_tests::device::Series;
use fleet_tests::{Checkout, Edge, Fleet};

/// A greeting on every node.
pub(crate) const HELLO: &str = r#"
[deployment]
name = "hello"
select = "*"
[[handler]]
name = "hello"
version = "1.0.0"
route = "/hello"
config = { greeting = "one" }
"#;

/// A stream without a processor on every node.
pub(crate) const VIBRATION_STREAM: &str = r#"
[deployment]
name = "streams"
select = "*"
[[stream]]
name = "vibration"
quota = "64MiB"
"#;

/// A fleet with one node that has joined but has nothing to do.
pub(crate) async fn one_node() -> Result<Fleet> {
    let mut fleet = Fleet::start().await?;
    fleet.add("n1", &["site=test"]).await?;
    Ok(fleet)
}

/// A fleet with one node that serves `/hello`.
pub(crate) async fn one_node_with_hello() -> Result<Fleet> {
    let fleet = one_node().await?;
    fleet.push_handler("hello:1.0.0", "hello").await?;
    fleet.apply(HELLO).await?;
    fleet.committed().await?;
    Ok(fleet)
}

/// The greeting that a node answers with.
pub(crate) async fn greeting(edge: &Edge) -> Result<String> {
    let (status, body) = edge.get("/hello").await?;
    anyhow::ensure!(status == 200, "{status}: {body}");
    let body: serde_json::Value = serde_json::from_str(&body)?;
    Ok(body["greeting"].as_str().unwrap_or_default().to_owned())
}

/// The measured series that devices send.
pub(crate) fn series() -> Result<Series> {
    Series::load("vibration.ndjson")
}

/// A component that does the same as the given one but has another digest.
pub(crate) fn variant(module: &str, tag: &str) -> Result<Vec<u8>> {
    let mut wasm = std::fs::read(Checkout::module(module)?)?;
    // A custom section: id 0, size, name, content.
    let size = u8::try_from(2 + tag.len())?;
    wasm.extend([0, size, 1, b't']);
    wasm.extend(tag.as_bytes());
    Ok(wasm)
}

/// A component with every `from` in it written as `to`, of the same length.
pub(crate) fn renamed(module: &str, from: &str, to: &str) -> Result<Vec<u8>> {
    assert_eq!(from.len(), to.len());
    let mut wasm = std::fs::read(Checkout::module(module)?)?;
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut changed = 0;
    for at in 0..wasm.len() - from.len() {
        if &wasm[at..at + from.len()] == from {
            wasm[at..at + from.len()].copy_from_slice(to);
            changed += 1;
        }
    }
    anyhow::ensure!(changed > 0, "{module} has no such name");
    Ok(wasm)
}

/// An ONNX model that hands its input on, of the given opset.
pub(crate) fn identity_model(opset: u8) -> Vec<u8> {
    let value_info = |name: &str| {
        // ValueInfoProto: name, type { tensor_type { elem_type float, shape { dim { 1 } } } }
        let dim = field(1, &number(1, 1));
        let tensor = [number(1, 1), field(2, &dim)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph = [
        field(1, &node),
        field(2, b"identity"),
        field(11, &value_info("x")),
        field(12, &value_info("y")),
    ]
    .concat();
    let opset = [field(1, b""), number(2, opset)].concat();
    [number(1, 8), field(7, &graph), field(8, &opset)].concat()
}

/// An ONNX model that multiplies its input, four numbers, by what lies in the file `weights`.
pub(crate) fn scaling_model(weights: &str) -> Vec<u8> {
    let value_info = |name: &str| {
        let dim = field(1, &number(1, 4));
        let tensor = [number(1, 1), field(2, &dim)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let entry = |key: &str, value: &str| {
        let entry = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
        field(13, &entry)
    };
    // TensorProto: dims, data_type float, name, external_data, data_location external
    let tensor = [
        number(1, 4),
        number(2, 1),
        field(8, b"w"),
        entry("location", weights),
        entry("offset", "0"),
        entry("length", "16"),
        number(14, 1),
    ]
    .concat();
    let node = [
        field(1, b"x"),
        field(1, b"w"),
        field(2, b"y"),
        field(4, b"Mul"),
    ]
    .concat();
    let graph = [
        field(1, &node),
        field(2, b"scaling"),
        field(5, &tensor),
        field(11, &value_info("x")),
        field(12, &value_info("y")),
    ]
    .concat();
    let opset = [field(1, b""), number(2, 17)].concat();
    [number(1, 8), field(7, &graph), field(8, &opset)].concat()
}

/// Four numbers as a file of weights.
pub(crate) fn weights(factor: f32) -> Vec<u8> {
    [factor; 4].into_iter().flat_map(f32::to_le_bytes).collect()
}

/// A protobuf field with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut len = content.len();
    let mut head = vec![number << 3 | 2];
    while len >= 0x80 {
        head.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
        len >>= 7;
    }
    head.push(u8::try_from(len).expect("seven bits"));
    [&head, content].concat()
}

/// A protobuf field with a small number.
fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}
