//! How a camera was held, from the EXIF data of its picture.

/// Which way up the pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    Upright,
    Mirrored,
    UpsideDown,
    MirroredUpsideDown,
    Transposed,
    /// To be turned clockwise.
    LyingLeft,
    MirroredTransposed,
    /// To be turned counter-clockwise.
    LyingRight,
}

/// The tag of the orientation, and the type of its value, a 16-bit number.
const TAG: u16 = 0x0112;
const SHORT: u16 = 3;

impl Orientation {
    /// What EXIF data says; upright if it says nothing that can be read.
    pub(super) fn read(exif: &[u8]) -> Orientation {
        Self::tag(exif).unwrap_or(Orientation::Upright)
    }

    /// Looks through the first directory.
    fn tag(exif: &[u8]) -> Option<Orientation> {
        let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
        let little = match exif.get(..2)? {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let short = |at: usize| {
            let bytes = *exif.get(at..)?.first_chunk()?;
            Some(if little {
                u16::from_le_bytes(bytes)
            } else {
                u16::from_be_bytes(bytes)
            })
        };
        let bytes = *exif.get(4..)?.first_chunk()?;
        let directory = if little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        } as usize;
        let entries = usize::from(short(directory)?);
        let entry = (0..entries)
            .map(|entry| directory + 2 + entry * 12)
            .find(|entry| short(*entry) == Some(TAG))?;
        if short(entry + 2)? != SHORT {
            return None;
        }
        Some(match short(entry + 8)? {
            1 => Orientation::Upright,
            2 => Orientation::Mirrored,
            3 => Orientation::UpsideDown,
            4 => Orientation::MirroredUpsideDown,
            5 => Orientation::Transposed,
            6 => Orientation::LyingLeft,
            7 => Orientation::MirroredTransposed,
            8 => Orientation::LyingRight,
            _ => return None,
        })
    }

    /// Whether width and height change places.
    pub(super) fn swaps_sides(self) -> bool {
        matches!(
            self,
            Orientation::Transposed
                | Orientation::LyingLeft
                | Orientation::MirroredTransposed
                | Orientation::LyingRight
        )
    }

    /// Turns pixels of `size` (width, height) upright.
    pub(super) fn upright(
        self,
        pixels: Vec<f32>,
        (width, height): (usize, usize),
        channels: usize,
    ) -> Vec<f32> {
        if self == Orientation::Upright {
            return pixels;
        }
        let (right, bottom) = (width - 1, height - 1);
        let (to_width, to_height) = if self.swaps_sides() {
            (height, width)
        } else {
            (width, height)
        };
        let mut turned = Vec::with_capacity(pixels.len());
        for y in 0..to_height {
            for x in 0..to_width {
                let (from_x, from_y) = match self {
                    Orientation::Upright => (x, y),
                    Orientation::Mirrored => (right - x, y),
                    Orientation::UpsideDown => (right - x, bottom - y),
                    Orientation::MirroredUpsideDown => (x, bottom - y),
                    Orientation::Transposed => (y, x),
                    Orientation::LyingLeft => (y, bottom - x),
                    Orientation::MirroredTransposed => (right - y, bottom - x),
                    Orientation::LyingRight => (right - y, x),
                };
                let at = (from_y * width + from_x) * channels;
                turned.extend_from_slice(&pixels[at..at + channels]);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exif(little: bool, orientation: u16) -> Vec<u8> {
        let short = |n: u16| {
            if little {
                n.to_le_bytes()
            } else {
                n.to_be_bytes()
            }
        };
        let long = |n: u32| {
            if little {
                n.to_le_bytes()
            } else {
                n.to_be_bytes()
            }
        };
        let mut exif = Vec::new();
        exif.extend(if little { b"II" } else { b"MM" });
        exif.extend(short(42));
        exif.extend(long(8));
        exif.extend(short(2));
        for (tag, value) in [(0x0100, 7), (TAG, orientation)] {
            exif.extend(short(tag));
            exif.extend(short(SHORT));
            exif.extend(long(1));
            exif.extend(short(value));
            exif.extend([0; 2]);
        }
        exif
    }

    #[test]
    fn the_orientation_is_read_in_both_byte_orders() {
        for little in [true, false] {
            assert_eq!(Orientation::read(&exif(little, 6)), Orientation::LyingLeft);
            let with_head = [b"Exif\0\0", &exif(little, 3)[..]].concat();
            assert_eq!(Orientation::read(&with_head), Orientation::UpsideDown);
            assert_eq!(Orientation::read(&exif(little, 9)), Orientation::Upright);
            assert_eq!(
                Orientation::read(&exif(little, 6)[..20]),
                Orientation::Upright
            );
        }
    }

    #[test]
    fn each_orientation_is_turned_upright() {
        // 1 2 3
        // 4 5 6
        let stored = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let cases = [
            (1, [1, 2, 3, 4, 5, 6]),
            (2, [3, 2, 1, 6, 5, 4]),
            (3, [6, 5, 4, 3, 2, 1]),
            (4, [4, 5, 6, 1, 2, 3]),
            (5, [1, 4, 2, 5, 3, 6]),
            (6, [4, 1, 5, 2, 6, 3]),
            (7, [6, 3, 5, 2, 4, 1]),
            (8, [3, 6, 2, 5, 1, 4]),
        ];
        for (orientation, upright) in cases {
            let turned =
                Orientation::read(&exif(true, orientation)).upright(stored.clone(), (3, 2), 1);
            assert_eq!(turned, upright.map(|n: i16| f32::from(n)), "{orientation}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_orientation(bytes in proptest::collection::vec(any::<u8>(), 0..60), little: bool) {
            Orientation::read(&bytes);
            let mut exif = exif(little, 1);
            let at = bytes.len() % exif.len();
            exif.truncate(at);
            exif.extend(bytes);
            Orientation::read(&exif);
        }
    }
}
