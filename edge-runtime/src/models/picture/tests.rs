use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const LIMIT: usize = 1 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/pictures")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// What another library makes of the same pictures.
fn expected(name: &str) -> Vec<u8> {
    let all: Value = serde_json::from_slice(&file("expected.json")).unwrap();
    serde_json::from_value(all[name].clone()).unwrap()
}

fn card(width: usize, height: usize) -> ImageCard {
    let shape = [1, height, width, 3];
    ImageCard {
        input: "x".into(),
        datatype: DataType::Uint8,
        shape: shape.map(|dim| i64::try_from(dim).unwrap()).to_vec(),
        layout: Layout::Nhwc,
        color: Color::Rgb,
        width,
        height,
        resize: Resize::Stretch,
        keep: 1.0,
        fill: 0,
        antialias: true,
        normalize: Normalize {
            scale: 1.0,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        },
    }
}

fn gray(width: usize, height: usize) -> ImageCard {
    let mut card = card(width, height);
    card.color = Color::Gray;
    card.shape[3] = 1;
    card
}

#[track_caller]
fn assert_close(name: &str, card: &ImageCard, expected: &[u8], most: u8) {
    let tensor = tensor(&file(name), card, LIMIT).unwrap();
    tensor.check().unwrap();
    assert_eq!(tensor.data.len(), expected.len());
    let off = tensor
        .data
        .iter()
        .zip(expected)
        .map(|(a, b)| a.abs_diff(*b));
    let worst = off.max().unwrap();
    assert!(worst <= most, "{name} is {worst} off");
}

#[test]
fn pictures_are_resampled_as_another_library_resamples_them() {
    assert_close("scene.png", &card(16, 12), &expected("stretch"), 1);
    assert_close("scene.png", &gray(16, 12), &expected("gray"), 1);
    assert_close("scene.png", &gray(90, 70), &expected("larger"), 1);
    let mut crop = card(16, 12);
    crop.resize = Resize::Crop;
    assert_close("scene.png", &crop, &expected("crop"), 1);
}

#[test]
fn every_kind_of_picture_is_decoded() {
    for (name, off) in [
        ("scene.jpg", 3),
        ("progressive.jpg", 3),
        ("gray.jpg", 2),
        ("palette.png", 1),
    ] {
        assert_close(name, &card(16, 12), &expected(name), off);
    }
    // Transparency does not count, nor how the camera was held.
    assert_close("clear.png", &card(16, 12), &expected("stretch"), 1);
    assert_close("turned.jpg", &card(16, 12), &expected("stretch"), 12);
    assert_close("cmyk.jpg", &card(16, 12), &expected("stretch"), 12);
    assert_close("gray.png", &gray(16, 12), &expected("gray"), 1);
    assert_close("gray.jpg", &gray(16, 12), &expected("gray"), 3);
    assert_close("scene.jpg", &gray(16, 12), &expected("gray"), 3);
}

#[test]
fn a_crop_may_keep_less_than_it_could() {
    let mut crop = card(16, 12);
    crop.resize = Resize::Crop;
    let whole = tensor(&file("scene.png"), &crop, LIMIT).unwrap();
    crop.keep = 0.5;
    let part = tensor(&file("scene.png"), &crop, LIMIT).unwrap();
    // Red grows from left to right: the smaller part begins later.
    assert!(part.data[0] > whole.data[0] + 20);
}

#[test]
fn a_fitted_picture_stands_in_the_middle_of_its_border() {
    let mut fit = card(30, 30);
    fit.resize = Resize::Fit;
    fit.fill = 7;
    let tensor = tensor(&file("scene.png"), &fit, LIMIT).unwrap();
    let pixel = |x: usize, y: usize| &tensor.data[(y * 30 + x) * 3..][..3];
    // 60 x 40 becomes 30 x 20, with five rows above and below.
    assert_eq!(pixel(15, 4), [7, 7, 7]);
    assert_eq!(pixel(15, 25), [7, 7, 7]);
    assert_eq!(pixel(0, 4), [7, 7, 7]);
    assert!(pixel(29, 5)[0] > 240 && pixel(0, 5)[0] < 10);
    assert!(pixel(15, 24)[1] > 240 && pixel(15, 5)[1] < 15);
}

#[test]
fn layout_color_and_normalization_are_the_cards() {
    let plain = tensor(&file("scene.png"), &card(4, 2), LIMIT).unwrap().data;
    let mut turned = card(4, 2);
    turned.color = Color::Bgr;
    let bgr = tensor(&file("scene.png"), &turned, LIMIT).unwrap().data;
    assert_eq!(bgr[0..3], [plain[2], plain[1], plain[0]]);
    turned.layout = Layout::Nchw;
    turned.datatype = DataType::Fp32;
    turned.shape = vec![1, 3, 2, 4];
    turned.normalize = Normalize {
        scale: 1.0 / 255.0,
        mean: vec![0.1, 0.2, 0.3],
        std: vec![1.0, 2.0, 4.0],
    };
    let made = tensor(&file("scene.png"), &turned, LIMIT).unwrap();
    made.check().unwrap();
    let floats: Vec<f32> = made
        .data
        .as_chunks()
        .0
        .iter()
        .map(|c| f32::from_le_bytes(*c))
        .collect();
    for (channel, (mean, std)) in [(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)].into_iter().enumerate() {
        for pixel in 0..8 {
            let level = f32::from(bgr[pixel * 3 + channel]);
            let wanted = (level / 255.0 - mean) / std;
            assert!((floats[channel * 8 + pixel] - wanted).abs() < 0.6 / 255.0 / std);
        }
    }
}

#[test]
fn what_is_broken_cut_off_or_too_large_is_refused() {
    let refused = |bytes: &[u8], limit| tensor(bytes, &card(8, 8), limit).unwrap_err();
    for name in ["scene.jpg", "progressive.jpg", "scene.png"] {
        let whole = file(name);
        for cut in [4, whole.len() / 2, whole.len() * 9 / 10] {
            let error = refused(&whole[..cut], LIMIT);
            assert!(
                matches!(error, PictureError::Broken { .. }),
                "{name} {cut}: {error}"
            );
        }
        let error = refused(&whole, 60 * 40 * 3 - 1);
        assert_eq!(
            error.to_string(),
            "has 60 x 40 pixels, which decoded are more than 7199 bytes, the most that is taken"
        );
    }
    for bytes in [&b""[..], b"GIF89a", b"hello"] {
        let error = refused(bytes, LIMIT);
        assert_eq!(
            error.to_string(),
            "is neither JPEG nor PNG, by its first bytes"
        );
    }
    // A head that claims the largest picture there is.
    let mut png = file("scene.png");
    png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    refused(&png, LIMIT);
    let mut jpeg = file("scene.jpg");
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xff);
    assert!(matches!(
        refused(&jpeg, LIMIT),
        PictureError::TooLarge { .. }
    ));
}

proptest! {
    #[test]
    fn changed_pictures_are_taken_or_refused_but_never_panic(at in 0..3_usize, changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut bytes = file(["scene.jpg", "progressive.jpg", "palette.png"][at]);
        for (place, value) in changes {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        if let Ok(made) = tensor(&bytes, &card(5, 7), 1 << 16) {
            prop_assert!(made.check().is_ok());
        }
    }
}
