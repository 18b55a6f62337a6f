//! How far two tensors are from each other: what golden outputs and shadow runs are judged by.

use super::tensor::{DataType, Tensor};

/// Two tensors of the same type and shape, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Difference {
    /// Every bit is the same.
    pub(crate) exact: bool,
    /// Every element is within the tolerance.
    pub(crate) within: bool,
    /// The largest absolute difference; infinite between a number and a NaN, or where strings differ.
    pub(crate) max_abs: f64,
    /// Where the element is that is furthest beyond the tolerance, or from its counterpart.
    pub(crate) worst: usize,
}

/// Compares `got` to `expected`. An element is within the tolerance if it differs by no more than `tolerance` times the
/// larger of 1 and the expected element's size; NaN equals NaN, and an infinity itself. None if the types or shapes
/// differ.
pub(crate) fn compare(expected: &Tensor, got: &Tensor, tolerance: f64) -> Option<Difference> {
    if expected.datatype != got.datatype || expected.shape != got.shape {
        return None;
    }
    let mut difference = Difference {
        exact: expected.data == got.data,
        within: true,
        max_abs: 0.0,
        worst: 0,
    };
    if difference.exact {
        return Some(difference);
    }
    let mut worst = 0.0;
    let mut look = |index: usize, by: f64, scale: f64| {
        difference.within &= by <= tolerance * scale;
        difference.max_abs = difference.max_abs.max(by);
        if by / scale > worst {
            worst = by / scale;
            difference.worst = index;
        }
    };
    match (numbers(expected), numbers(got)) {
        (Some(a), Some(b)) => {
            for (index, (a, b)) in a.zip(b).enumerate() {
                let same = a == b || a.is_nan() && b.is_nan();
                let by = (a - b).abs();
                let by = match (same, by.is_nan()) {
                    (true, _) => 0.0,
                    (false, true) => f64::INFINITY,
                    (false, false) => by,
                };
                look(
                    index,
                    by,
                    if a.is_finite() { a.abs().max(1.0) } else { 1.0 },
                );
            }
        }
        _ => {
            let pairs = expected.strings().zip(got.strings()).enumerate();
            pairs.for_each(|(index, (a, b))| {
                look(index, if a == b { 0.0 } else { f64::INFINITY }, 1.0)
            });
        }
    }
    Some(difference)
}

/// The elements as doubles (integers beyond 2^53 to the nearest one); none for strings.
pub(crate) fn numbers(tensor: &Tensor) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
    fn all<'a, const N: usize>(
        tensor: &'a Tensor,
        number: impl Fn([u8; N]) -> f64 + 'a,
    ) -> Box<dyn Iterator<Item = f64> + 'a> {
        Box::new(
            tensor
                .data
                .as_chunks::<N>()
                .0
                .iter()
                .map(move |bytes| number(*bytes)),
        )
    }
    Some(match tensor.datatype {
        DataType::Bool | DataType::Uint8 => all(tensor, |[byte]| f64::from(byte)),
        DataType::Int8 => all(tensor, |[byte]| f64::from(byte.cast_signed())),
        DataType::Uint16 => all(tensor, |bytes| f64::from(u16::from_le_bytes(bytes))),
        DataType::Int16 => all(tensor, |bytes| f64::from(i16::from_le_bytes(bytes))),
        DataType::Uint32 => all(tensor, |bytes| f64::from(u32::from_le_bytes(bytes))),
        DataType::Int32 => all(tensor, |bytes| f64::from(i32::from_le_bytes(bytes))),
        DataType::Uint64 => all(tensor, |bytes| u64::from_le_bytes(bytes) as f64),
        DataType::Int64 => all(tensor, |bytes| i64::from_le_bytes(bytes) as f64),
        DataType::Fp16 => all(tensor, |bytes| half(u16::from_le_bytes(bytes))),
        DataType::Bf16 => all(tensor, |bytes| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }),
        DataType::Fp32 => all(tensor, |bytes| f64::from(f32::from_le_bytes(bytes))),
        DataType::Fp64 => all(tensor, f64::from_le_bytes),
        DataType::Bytes => return None,
    })
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor {
            name: "y".into(),
            datatype: DataType::Fp32,
            shape: vec![i64::try_from(values.len()).unwrap()],
            data: data.into(),
        }
    }

    #[test]
    fn small_differences_are_within_and_large_ones_are_named() {
        let expected = floats(&[1.0, 1000.0, f32::NAN, f32::INFINITY]);
        let exact = compare(&expected, &expected, 0.0).unwrap();
        assert!(exact.exact && exact.within && exact.max_abs == 0.0);
        let close = floats(&[1.0005, 1000.5, f32::NAN, f32::INFINITY]);
        let close = compare(&expected, &close, 1e-3).unwrap();
        assert!(
            !close.exact && close.within && close.max_abs == 0.5,
            "{close:?}"
        );
        let far = compare(
            &expected,
            &floats(&[1.1, 1000.5, f32::NAN, f32::INFINITY]),
            1e-3,
        )
        .unwrap();
        assert!(!far.within && far.worst == 0, "{far:?}");
        let odd = compare(&expected, &floats(&[1.0, 1000.0, 0.0, f32::INFINITY]), 1e-3).unwrap();
        assert_eq!(
            (odd.within, odd.max_abs, odd.worst),
            (false, f64::INFINITY, 2)
        );
        assert_eq!(compare(&expected, &floats(&[1.0]), 1e-3), None);
    }

    #[test]
    fn half_precision_reads_as_the_standard_says() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2_f64.powi(-24)),
            (0x0400, 2_f64.powi(-14)),
            (0x3555, 0.333251953125),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
            (0x8000, 0.0),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value, "{bits:#x}");
        }
        assert!(half(0x7e00).is_nan());
    }
}
