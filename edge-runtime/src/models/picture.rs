//! Pictures as inputs: a JPEG or PNG becomes the tensor that a model's card describes.
//!
//! ```text
//! bytes -> decode (8 bits, gray or RGB) -> resample to the card's size -> turn as EXIF says -> normalize -> tensor
//! ```

use std::io::Cursor;

use bytes::Bytes;
use png::{ColorType, Transformations};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::card::{Color, ImageCard, Layout, Normalize, Resize};
use super::tensor::{DataType, Tensor};

mod exif;
mod resample;

use exif::Orientation;
use resample::{Area, resample};

/// Why a body is no picture that can be used; reads well after "the picture".
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    /// Neither of the formats.
    #[error("is neither JPEG nor PNG, by its first bytes")]
    UnknownFormat,
    /// More pixels than may be decoded.
    #[error(
        "has {width} x {height} pixels, which decoded are more than {limit} bytes, the most that is taken"
    )]
    TooLarge {
        width: usize,
        height: usize,
        limit: usize,
    },
    /// Not what its format says.
    #[error("is no complete {format}: {problem}")]
    Broken {
        format: &'static str,
        problem: String,
    },
}

/// A decoded picture: rows of pixels with one channel (gray) or three (red, green, blue).
#[derive(Debug, PartialEq)]
struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
    orientation: Orientation,
}

/// Makes a model's input of a picture that decoded has at most `limit` bytes.
pub(crate) fn tensor(bytes: &[u8], card: &ImageCard, limit: usize) -> Result<Tensor, PictureError> {
    let gray = card.color == Color::Gray;
    let picture = match bytes {
        [0xff, 0xd8, 0xff, ..] => jpeg(bytes, gray, limit)?,
        [0x89, b'P', b'N', b'G', ..] => png(bytes, limit)?,
        _ => return Err(PictureError::UnknownFormat),
    };
    let canvas = fitted(&picture, card);
    Ok(Tensor {
        name: card.input.clone(),
        datatype: card.datatype,
        shape: card.shape.clone(),
        data: normalized(&canvas, picture.channels, card),
    })
}

fn jpeg(bytes: &[u8], gray: bool, limit: usize) -> Result<Picture, PictureError> {
    let broken = |problem: &dyn std::fmt::Display| PictureError::Broken {
        format: "JPEG",
        problem: problem.to_string(),
    };
    // Strict: a picture that is cut off would else be filled up, and inference would not tell.
    let options = DecoderOptions::new_safe()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|e| broken(&format!("{e:?}")))?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| broken(&"it has no size"))?;
    let is_gray = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => true,
        Some(ColorSpace::YCbCr) => gray,
        _ => false,
    };
    let (space, channels) = if is_gray {
        (ColorSpace::Luma, 1)
    } else {
        (ColorSpace::RGB, 3)
    };
    within(limit, width, height, channels)?;
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let pixels = decoder.decode().map_err(|e| broken(&format!("{e:?}")))?;
    if pixels.len() != width * height * channels {
        return Err(broken(&"it has another size than its head says"));
    }
    let orientation = decoder
        .exif()
        .map_or(Orientation::Upright, |exif| Orientation::read(exif));
    Ok(Picture {
        width,
        height,
        channels,
        pixels,
        orientation,
    })
}

fn png(bytes: &[u8], limit: usize) -> Result<Picture, PictureError> {
    let broken = |error: png::DecodingError| PictureError::Broken {
        format: "PNG",
        problem: error.to_string(),
    };
    let limits = png::Limits { bytes: limit };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let (width, height) = decoder.read_header_info().map_err(broken)?.size();
    let (width, height) = (width as usize, height as usize);
    within(limit, width, height, 1)?;
    let mut reader = decoder.read_info().map_err(broken)?;
    let samples = reader.output_color_type().0.samples();
    within(limit, width, height, samples)?;
    let mut pixels = vec![0; width * height * samples];
    let frame = reader.next_frame(&mut pixels).map_err(broken)?;
    let exif = reader.info().exif_metadata.as_ref();
    let orientation = exif.map_or(Orientation::Upright, |exif| Orientation::read(exif));
    // Transparency is left out, as training tools do.
    let channels = match frame.color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => 1,
        _ => 3,
    };
    if samples > channels {
        let opaque = pixels
            .chunks_exact(samples)
            .flat_map(|pixel| &pixel[..channels]);
        pixels = opaque.copied().collect();
    }
    Ok(Picture {
        width,
        height,
        channels,
        pixels,
        orientation,
    })
}

fn within(limit: usize, width: usize, height: usize, channels: usize) -> Result<(), PictureError> {
    let bytes = width
        .checked_mul(height)
        .and_then(|n| n.checked_mul(channels));
    if bytes.is_some_and(|bytes| bytes <= limit) {
        return Ok(());
    }
    Err(PictureError::TooLarge {
        width,
        height,
        limit,
    })
}

/// The picture in the card's size, upright, with its own channels.
fn fitted(picture: &Picture, card: &ImageCard) -> Vec<f32> {
    // The small result is turned, not the large picture.
    let turned = picture.orientation.swaps_sides();
    let (width, height) = if turned {
        (card.height, card.width)
    } else {
        (card.width, card.height)
    };
    let (from_width, from_height) = (picture.width as f32, picture.height as f32);
    let (x_scale, y_scale) = (from_width / width as f32, from_height / height as f32);
    let whole = Area::whole(picture.width, picture.height);
    let scaled = |area: Area, width: usize, height: usize| {
        resample(
            &picture.pixels,
            (picture.width, picture.channels),
            area,
            (width, height),
            card.antialias,
        )
    };
    let canvas = match card.resize {
        Resize::Stretch => scaled(whole, width, height),
        Resize::Crop => {
            let scale = x_scale.min(y_scale) * card.keep;
            scaled(
                whole.middle(width as f32 * scale, height as f32 * scale),
                width,
                height,
            )
        }
        Resize::Fit => {
            let scale = x_scale.max(y_scale);
            let side = |from: f32, most: usize| ((from / scale).round() as usize).clamp(1, most);
            let (inner_width, inner_height) = (side(from_width, width), side(from_height, height));
            let inner = scaled(whole, inner_width, inner_height);
            let mut canvas = vec![f32::from(card.fill); width * height * picture.channels];
            let left = (width - inner_width) / 2;
            let top = (height - inner_height) / 2;
            for (row, pixels) in inner
                .chunks_exact(inner_width * picture.channels)
                .enumerate()
            {
                let start = ((top + row) * width + left) * picture.channels;
                canvas[start..start + pixels.len()].copy_from_slice(pixels);
            }
            canvas
        }
    };
    picture
        .orientation
        .upright(canvas, (width, height), picture.channels)
}

/// Pixels as the model takes them: its channels in its order, normalized.
fn normalized(canvas: &[f32], channels: usize, card: &ImageCard) -> Bytes {
    let count = card.width * card.height * card.color.channels();
    if card.datatype == DataType::Uint8 {
        let mut data = Vec::with_capacity(count);
        laid_out(canvas, channels, card, |value, _| {
            data.push(value.round().clamp(0.0, 255.0) as u8);
        });
        return data.into();
    }
    let Normalize { scale, mean, std } = &card.normalize;
    let mut data = Vec::with_capacity(count);
    laid_out(canvas, channels, card, |value, channel| {
        data.push(((value * scale - mean[channel]) / std[channel]).to_le_bytes());
    });
    data.into_flattened().into()
}

/// Puts each level, with its channel in the model's order, in the order of the layout.
fn laid_out(canvas: &[f32], channels: usize, card: &ImageCard, mut put: impl FnMut(f32, usize)) {
    let level = |pixel: &[f32], channel: usize| match (card.color, pixel) {
        (Color::Gray, [red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue,
        (Color::Bgr, [_, _, _]) => pixel[2 - channel],
        (Color::Rgb, [_, _, _]) => pixel[channel],
        _ => pixel[0],
    };
    let wanted = card.color.channels();
    let pixels = canvas.chunks_exact(channels);
    match card.layout {
        Layout::Nchw => (0..wanted).for_each(|channel| {
            pixels
                .clone()
                .for_each(|pixel| put(level(pixel, channel), channel));
        }),
        Layout::Nhwc => pixels.for_each(|pixel| {
            (0..wanted).for_each(|channel| put(level(pixel, channel), channel));
        }),
    }
}

#[cfg(test)]
mod tests;
