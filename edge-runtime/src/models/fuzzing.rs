//! Bodies of the fuzz targets of inference; see fuzz/README.md. Each also counts what it took, so that a test can see
//! that it was not idle.

use std::time::Instant;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::card::{Color, ImageCard, Layout, Normalize, Resize};
use super::compression::Coding;
use super::protocol::{AnswerForm, decode, encode};
use super::tensor::{DataType, Tensor, TensorInfo};
use super::{InferResponse, picture};

/// More than a fuzzer sends, and less than would be slow.
const LIMIT: usize = 1 << 20;

/// A request's JSON: it is refused, or is JSON whose tensors are read the same when they are written again. True if it
/// was taken.
pub fn infer_json(body: &[u8]) -> bool {
    let Ok(decoded) = decode(&Bytes::copy_from_slice(body), None, &[], Instant::now()) else {
        return false;
    };
    // Some clients write what JSON has no number for as bare words.
    let text = String::from_utf8_lossy(body);
    if !text.contains("NaN") && !text.contains("Infinity") {
        assert!(serde_json::from_slice::<IgnoredAny>(body).is_ok(), "{text}");
    }
    let good = |tensor: &Tensor| tensor.check().is_ok() && tensor.datatype.has_json_form();
    let tensors: Vec<Tensor> = decoded.request.inputs.into_iter().filter(good).collect();
    let response = InferResponse {
        model: "m".into(),
        version: "1".into(),
        outputs: tensors.clone(),
    };
    let written = encode(&response, &AnswerForm::default()).expect("every type has a JSON form");
    let again = String::from_utf8_lossy(&written.body).replacen("\"outputs\"", "\"inputs\"", 1);
    let again = decode(&again.into(), None, &[], Instant::now()).expect("an answer can be read");
    assert_eq!(again.request.inputs, tensors);
    true
}

/// JSON with binary data behind it; the first two bytes are the length that the header tells. True if it was taken.
pub fn infer_binary(body: &[u8]) -> bool {
    let Some((length, body)) = body.split_first_chunk::<2>() else {
        return false;
    };
    let length = usize::from(u16::from_le_bytes(*length));
    let declared = [TensorInfo {
        name: "x".into(),
        datatype: DataType::Int16,
        shape: vec![-1, 3],
    }];
    let whole = Bytes::copy_from_slice(body);
    let Ok(decoded) = decode(&whole, Some(length), &declared, Instant::now()) else {
        return false;
    };
    for tensor in decoded.request.inputs {
        if tensor.check().is_ok() && tensor.datatype == DataType::Bytes {
            tensor.strings().for_each(drop);
        }
    }
    true
}

/// A picture: it is refused, or becomes what a card says. True if it was taken.
pub fn infer_picture(body: &[u8]) -> bool {
    let card = |resize, color: Color| ImageCard {
        input: "x".into(),
        datatype: DataType::Fp32,
        shape: vec![1, if color == Color::Gray { 1 } else { 3 }, 5, 7],
        layout: Layout::Nchw,
        color,
        width: 7,
        height: 5,
        resize,
        keep: 0.8,
        fill: 9,
        antialias: true,
        normalize: Normalize {
            scale: 0.5,
            mean: vec![1.0; 3],
            std: vec![2.0; 3],
        },
    };
    let cards = [
        card(Resize::Stretch, Color::Rgb),
        card(Resize::Crop, Color::Gray),
        card(Resize::Fit, Color::Bgr),
    ];
    let mut taken = false;
    for card in cards {
        if let Ok(tensor) = picture::tensor(body, &card, LIMIT) {
            assert_eq!(tensor.check(), Ok(()));
            taken = true;
        }
    }
    taken
}

/// A compressed body; the first byte's last bit says how. True if it was taken.
pub fn inflate(body: &[u8]) -> bool {
    let Some((first, body)) = body.split_first() else {
        return false;
    };
    let coding = if first & 1 == 0 {
        Coding::Gzip
    } else {
        Coding::Deflate
    };
    match coding.inflate(body, LIMIT) {
        Ok(whole) => {
            assert!(whole.len() <= LIMIT);
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const BODIES: [&str; 4] = [
        r#"{"id":"a","parameters":{"timeout":5,"priority":1},"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1.5,-2e3],["NaN",0]]}],"outputs":[{"name":"y","parameters":{"classification":2}}]}"#,
        r#"{"inputs":[{"data":[["a","\u00e9\n"]],"datatype":"BYTES","name":"s","shape":[1,2]},{"name":"b","shape":[],"datatype":"BOOL","data":true}]}"#,
        r#"{"inputs":[{"name":"x","shape":[0],"datatype":"INT64","data":[]},{"name":"u","shape":[3],"datatype":"UINT8","data":[0,128,255]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","data":[12345678901234567890.5,1e-320]}]}"#,
    ];

    fn picture(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/pictures");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn good_bodies_are_taken() {
        assert!(BODIES.iter().all(|body| infer_json(body.as_bytes())));
        let json = br#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}"#;
        let length = u16::try_from(json.len()).unwrap().to_le_bytes();
        assert!(infer_binary(&[&length[..], json, b"\x01\0\0\0a"].concat()));
        assert!(infer_binary(&[0; 8]));
        assert!(infer_picture(&picture("scene.jpg")) && infer_picture(&picture("clear.png")));
        let long = Coding::Gzip.deflate(&[7; 4000]).unwrap();
        assert!(inflate(&[&[0][..], &long].concat()) && !inflate(&[&[1][..], &long].concat()));
    }

    proptest! {
        #[test]
        fn changed_bodies_are_taken_or_refused(
            at in 0..4_usize, changes in proptest::collection::vec((any::<usize>(), 0..128_u8), 0..4), cut in any::<usize>(), whole: bool,
        ) {
            let mut body = BODIES[at].as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place % body.len();
                body[place] = byte;
            }
            if !whole {
                body.truncate(cut % body.len());
            }
            infer_json(&body);
            infer_binary(&body);
            infer_binary(&[&180_u16.to_le_bytes()[..], &body].concat());
        }

        #[test]
        fn changed_pictures_and_compressed_bodies_are_taken_or_refused(
            at in 0..9_usize, changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4), cut in any::<usize>(), whole: bool,
        ) {
            let name = ["scene.png", "scene.jpg", "progressive.jpg", "gray.jpg", "gray.png", "cmyk.jpg", "clear.png", "palette.png", "turned.jpg"][at];
            let mut body = picture(name);
            let mut coded = Coding::Gzip.deflate(&[&body[..], &[0; 2000]].concat()).unwrap().to_vec();
            for (place, byte) in changes {
                let (a, b) = (place % body.len(), place % coded.len());
                body[a] = byte;
                coded[b] = byte;
            }
            if !whole {
                body.truncate(cut % body.len());
            }
            infer_picture(&body);
            inflate(&[&[0][..], &coded].concat());
            inflate(&[&[1][..], &coded[10..]].concat());
        }
    }
}
