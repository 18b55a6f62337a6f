//! From a picture file to the tensor that the orientation model takes.

use std::{fmt, io::Cursor};

use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits, imageops::FilterType};

/// Width and height of the model's input.
pub const SIDE: u32 = 224;
/// The picture's middle square is brought to this side before its edges are cut.
const SHORT_SIDE: u32 = 256;
/// Mean and standard deviation of each channel, in the order of the model's
/// input (blue, green, red), as its own preprocessing applies them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
/// Keeps a small file that unfolds to a huge picture from using up the
/// handler's memory.
const MAX_DECODED_BYTES: u64 = 32 << 20;
const MAX_SIDE: u32 = 8192;

/// Why a body is no picture that can be judged.
#[derive(Debug)]
pub enum PictureError {
    /// Nothing was sent.
    Empty,
    /// Neither PNG nor JPEG.
    Unsupported,
    /// Too many pixels.
    TooLarge,
    /// The file is damaged.
    Damaged(ImageError),
}

impl PictureError {
    /// The HTTP status to answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Empty | Self::Damaged(_) => 400,
            Self::Unsupported => 415,
            Self::TooLarge => 413,
        }
    }

    /// The code to answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty-body",
            Self::Unsupported => "unsupported-picture",
            Self::TooLarge => "picture-too-large",
            Self::Damaged(_) => "damaged-picture",
        }
    }
}

impl fmt::Display for PictureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the body is empty; POST a PNG or JPEG picture"),
            Self::Unsupported => f.write_str("the body is neither a PNG nor a JPEG picture"),
            Self::TooLarge => write!(
                f,
                "the picture is wider or higher than {MAX_SIDE} pixels or needs more than {} MiB decoded",
                MAX_DECODED_BYTES >> 20
            ),
            Self::Damaged(error) => write!(f, "the picture cannot be decoded: {error}"),
        }
    }
}

/// Decodes a PNG or a JPEG; the format is taken from the bytes, not from a header.
pub fn decode(bytes: &[u8]) -> Result<DynamicImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        _ => return Err(PictureError::Unsupported),
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.decode().map_err(|error| match error {
        ImageError::Limits(_) => PictureError::TooLarge,
        error => PictureError::Damaged(error),
    })
}

/// Brings the square in the middle to 256x256, cuts 224x224 out of its middle
/// and normalises: three planes of 224x224 floats, blue first.
///
/// The square is cut out before it is resized, so that a very long picture
/// costs no more memory than any other.
pub fn to_tensor(picture: &DynamicImage) -> Vec<f32> {
    let short = picture.width().min(picture.height());
    let square = picture.crop_imm(
        (picture.width() - short) / 2,
        (picture.height() - short) / 2,
        short,
        short,
    );
    let resized = on_white(square.resize_exact(SHORT_SIDE, SHORT_SIDE, FilterType::Lanczos3));
    let margin = (SHORT_SIDE - SIDE) / 2;
    let mut tensor = Vec::with_capacity(3 * (SIDE * SIDE) as usize);
    for (plane, channel) in [2_usize, 1, 0].into_iter().enumerate() {
        for y in 0..SIDE {
            for x in 0..SIDE {
                let value = f32::from(resized.get_pixel(margin + x, margin + y).0[channel]) / 255.0;
                tensor.push((value - MEAN[plane]) / DEVIATION[plane]);
            }
        }
    }
    tensor
}

/// Transparent parts become white paper.
fn on_white(picture: DynamicImage) -> image::RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let rgba = picture.into_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u16::from);
        let mix = |c: u16| ((c * a + 255 * (255 - a)) / 255) as u8;
        image::Rgb([mix(r), mix(g), mix(b)])
    })
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(width, height, Rgb(colour))
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn puts_blue_first_and_normalises_each_channel() {
        let tensor = to_tensor(&decode(&png(300, 400, [255, 0, 0])).unwrap());
        let plane = (SIDE * SIDE) as usize;
        assert_eq!(tensor.len(), 3 * plane);
        assert!((tensor[0] - (0.0 - 0.485) / 0.229).abs() < 1e-5);
        assert!((tensor[2 * plane] - (1.0 - 0.406) / 0.225).abs() < 1e-5);
    }

    #[test]
    fn takes_pictures_smaller_than_the_model_input_and_very_long_ones() {
        for (width, height) in [(1, 1), (3, 2), (1, 8000)] {
            let tensor = to_tensor(&decode(&png(width, height, [9, 9, 9])).unwrap());
            assert_eq!(tensor.len(), 3 * (SIDE * SIDE) as usize);
        }
    }

    #[test]
    fn refuses_what_is_no_picture_with_the_reason() {
        assert_eq!(decode(b"").unwrap_err().status(), 400);
        assert_eq!(decode(b"GIF89a......").unwrap_err().status(), 415);
        assert_eq!(decode(b"hello").unwrap_err().status(), 415);
        let whole = png(64, 64, [1, 2, 3]);
        assert_eq!(
            decode(&whole[..whole.len() / 2]).unwrap_err().code(),
            "damaged-picture"
        );
    }

    #[test]
    fn refuses_a_small_file_that_unfolds_to_a_huge_picture() {
        assert_eq!(
            decode(&png(9000, 10, [0, 0, 0])).unwrap_err().code(),
            "picture-too-large"
        );
        assert_eq!(
            decode(&png(6000, 6000, [0, 0, 0])).unwrap_err().status(),
            413
        );
    }
}
