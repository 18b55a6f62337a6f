//! Tensors as they travel: named, typed, little-endian bytes in row-major order. The same form serves HTTP, handlers
//! and the engine.

use std::fmt;

use bytes::Bytes;

/// The element types of the Open Inference Protocol, BF16 included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE half precision; binary only.
    Fp16,
    /// Brain float; binary only.
    Bf16,
    /// IEEE single precision.
    Fp32,
    /// IEEE double precision.
    Fp64,
    /// Strings: each element is its length (u32, little-endian) and then its bytes.
    Bytes,
}

impl DataType {
    /// Every type.
    pub const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Bf16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
    ];

    /// The protocol's name for it.
    pub fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::Uint8 => "UINT8",
            DataType::Uint16 => "UINT16",
            DataType::Uint32 => "UINT32",
            DataType::Uint64 => "UINT64",
            DataType::Int8 => "INT8",
            DataType::Int16 => "INT16",
            DataType::Int32 => "INT32",
            DataType::Int64 => "INT64",
            DataType::Fp16 => "FP16",
            DataType::Bf16 => "BF16",
            DataType::Fp32 => "FP32",
            DataType::Fp64 => "FP64",
            DataType::Bytes => "BYTES",
        }
    }

    /// The type that the protocol calls `name`.
    pub fn from_name(name: &str) -> Option<DataType> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
    }

    /// Bytes per element; none for [`DataType::Bytes`], whose elements differ in length.
    pub fn size(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => Some(2),
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => Some(4),
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => Some(8),
            DataType::Bytes => None,
        }
    }

    /// Whether JSON can carry it.
    pub fn has_json_form(self) -> bool {
        !matches!(self, DataType::Fp16 | DataType::Bf16)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A named tensor with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The model's name for this input or output.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<i64>,
    /// Elements in row-major order, little-endian; see [`DataType::Bytes`] for strings.
    pub data: Bytes,
}

/// An input or output as the model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, -1 where any size is taken.
    pub shape: Vec<i64>,
}

/// What is wrong with a tensor's own data, before any model is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// A dimension below zero, or more elements than fit in memory.
    #[error("has shape {0:?}, which is not a size that can be served")]
    Shape(Vec<i64>),
    /// Data of the wrong length.
    #[error("has {got} bytes of data, expected {expected} for {datatype} of shape {shape:?}")]
    Length {
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes that came.
        got: usize,
        /// Element type.
        datatype: DataType,
        /// The shape it came with.
        shape: Vec<i64>,
    },
    /// String elements that do not add up.
    #[error(
        "has {got} complete BYTES elements, expected {expected} for shape {shape:?} and nothing after them"
    )]
    Elements {
        /// Elements that the shape asks for.
        expected: usize,
        /// Complete elements that came.
        got: usize,
        /// The shape it came with.
        shape: Vec<i64>,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("element {index} is the byte {got}, expected 0 or 1 for BOOL")]
    Bool {
        /// Which element.
        index: usize,
        /// The byte.
        got: u8,
    },
}

/// The number of elements of `shape`; none if a dimension is negative or the product is beyond what memory addresses.
pub(crate) fn element_count(shape: &[i64]) -> Option<usize> {
    // A zero anywhere makes the product zero, but a later overflow must still not pass: engines multiply in any order.
    let product = shape.iter().try_fold(1_usize, |product, dim| {
        let dim = usize::try_from(*dim).ok()?;
        product.checked_mul(dim.max(1))
    })?;
    if product > isize::MAX as usize / 16 {
        return None;
    }
    Some(if shape.contains(&0) { 0 } else { product })
}

impl Tensor {
    /// Checks that the data is what type and shape say.
    ///
    /// # Errors
    /// [`TensorError`], which reads well after "input 'x'".
    pub fn check(&self) -> Result<(), TensorError> {
        let count =
            element_count(&self.shape).ok_or_else(|| TensorError::Shape(self.shape.clone()))?;
        let Some(size) = self.datatype.size() else {
            let mut strings = Strings(&self.data);
            let got = strings.by_ref().count();
            return if got == count && strings.0.is_empty() {
                Ok(())
            } else {
                Err(TensorError::Elements {
                    expected: count,
                    got,
                    shape: self.shape.clone(),
                })
            };
        };
        if self.data.len() != count * size {
            return Err(TensorError::Length {
                expected: count * size,
                got: self.data.len(),
                datatype: self.datatype,
                shape: self.shape.clone(),
            });
        }
        if self.datatype == DataType::Bool
            && let Some((index, got)) = self.data.iter().enumerate().find(|(_, byte)| **byte > 1)
        {
            return Err(TensorError::Bool { index, got: *got });
        }
        Ok(())
    }

    /// The elements of a [`DataType::Bytes`] tensor, up to the first incomplete one.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> {
        Strings(&self.data)
    }
}

struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(element)
    }
}

/// Where the first `count` elements of [`DataType::Bytes`] data end, or the data itself.
pub(crate) fn string_end(data: &[u8], count: usize) -> usize {
    let mut strings = Strings(data);
    strings.by_ref().take(count).for_each(drop);
    data.len() - strings.0.len()
}

/// Appends one element of a [`DataType::Bytes`] tensor.
pub(crate) fn push_string(data: &mut Vec<u8>, element: &[u8]) {
    // Bodies are limited far below 4 GiB, so the length always fits.
    data.extend_from_slice(
        &u32::try_from(element.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    data.extend_from_slice(element);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(datatype: DataType, shape: &[i64], data: &[u8]) -> Tensor {
        Tensor {
            name: "x".into(),
            datatype,
            shape: shape.to_vec(),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn names_lead_back_to_their_type() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::from_name(datatype.name()), Some(datatype));
        }
        assert_eq!(DataType::from_name("fp32"), None);
    }

    #[test]
    fn counts_elements_and_refuses_what_no_memory_holds() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[2, 3]), Some(6));
        assert_eq!(element_count(&[2, 0, 3]), Some(0));
        assert_eq!(element_count(&[-1, 3]), None);
        assert_eq!(element_count(&[i64::MAX, i64::MAX]), None);
        assert_eq!(element_count(&[0, i64::MAX, i64::MAX]), None);
    }

    #[test]
    fn data_must_fit_type_and_shape() {
        assert_eq!(tensor(DataType::Fp32, &[2], &[0; 8]).check(), Ok(()));
        assert_eq!(tensor(DataType::Fp32, &[], &[0; 4]).check(), Ok(()));
        let short = tensor(DataType::Fp32, &[2], &[0; 7]).check().unwrap_err();
        assert_eq!(
            short.to_string(),
            "has 7 bytes of data, expected 8 for FP32 of shape [2]"
        );
        let odd = tensor(DataType::Bool, &[2], &[1, 2]).check().unwrap_err();
        assert_eq!(
            odd.to_string(),
            "element 1 is the byte 2, expected 0 or 1 for BOOL"
        );
    }

    #[test]
    fn strings_must_be_complete_and_as_many_as_the_shape_says() {
        let mut data = Vec::new();
        push_string(&mut data, b"ab");
        push_string(&mut data, b"");
        assert_eq!(tensor(DataType::Bytes, &[2], &data).check(), Ok(()));
        assert!(tensor(DataType::Bytes, &[1], &data).check().is_err());
        assert!(tensor(DataType::Bytes, &[3], &data).check().is_err());
        data.push(0);
        assert!(tensor(DataType::Bytes, &[2], &data).check().is_err());
    }
}
