//! Several requests as one run: rows of the first dimension put one after the other, and taken apart again.

use bytes::{Bytes, BytesMut};

use super::InferRequest;
use super::tensor::{DataType, Tensor, TensorInfo, string_end};

/// Why a model cannot run several requests at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbatchable {
    /// A tensor whose first dimension is no free one.
    #[error("{kind} '{name}' has shape {shape:?}, its first dimension is not free")]
    Fixed {
        kind: &'static str,
        name: String,
        shape: Vec<i64>,
    },
    /// A run on so many rows gave another number of rows.
    #[error("output '{name}' has shape {shape:?} after a run on {rows} rows")]
    Rows {
        name: String,
        shape: Vec<i64>,
        rows: usize,
    },
}

/// Whether the declared shapes let requests be put together.
pub(crate) fn declared(inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Result<(), Unbatchable> {
    let all = inputs.iter().map(|input| ("input", input));
    let all = all.chain(outputs.iter().map(|output| ("output", output)));
    for (kind, tensor) in all {
        if tensor.shape.first().is_none_or(|rows| *rows >= 0) {
            return Err(Unbatchable::Fixed {
                kind,
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
            });
        }
    }
    Ok(())
}

/// The rows of a request: what the first dimensions of all inputs agree on. None if they do not, or are no rows.
pub(crate) fn rows(request: &InferRequest) -> Option<usize> {
    let mut all = request.inputs.iter().map(|input| input.shape.first());
    let first = *all.next()??;
    let same = all.all(|rows| rows == Some(&first));
    usize::try_from(first).ok().filter(|rows| same && *rows > 0)
}

/// Whether two requests differ in nothing but rows and data.
pub(crate) fn joins(a: &InferRequest, b: &InferRequest) -> bool {
    let alike = |a: &Tensor, b: &Tensor| {
        a.name == b.name && a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..)
    };
    a.outputs == b.outputs
        && a.inputs.len() == b.inputs.len()
        && a.inputs.iter().zip(&b.inputs).all(|(a, b)| alike(a, b))
        && rows(a).is_some()
        && rows(b).is_some()
}

/// The inputs of requests that join, one after the other; at least one request.
pub(crate) fn join(requests: &[&InferRequest]) -> Vec<Tensor> {
    let Some(first) = requests.first() else {
        return Vec::new();
    };
    let joined = |index: usize, like: &Tensor| {
        let parts = || requests.iter().map(|request| &request.inputs[index]);
        let mut data = BytesMut::with_capacity(parts().map(|part| part.data.len()).sum());
        parts().for_each(|part| data.extend_from_slice(&part.data));
        let mut shape = like.shape.clone();
        shape[0] = parts().map(|part| part.shape[0]).sum();
        Tensor {
            name: like.name.clone(),
            datatype: like.datatype,
            shape,
            data: data.freeze(),
        }
    };
    let inputs = first.inputs.iter().enumerate();
    inputs.map(|(index, like)| joined(index, like)).collect()
}

/// Gives each request the rows that are its own; the data is shared, not copied.
///
/// # Errors
/// [`Unbatchable`] if an output has not as many rows as went in.
pub(crate) fn split(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Vec<Tensor>>, Unbatchable> {
    let total: usize = rows.iter().sum();
    let mut parts: Vec<Vec<Tensor>> = rows.iter().map(|_| Vec::new()).collect();
    for output in outputs {
        if output.shape.first().and_then(|n| usize::try_from(*n).ok()) != Some(total) {
            return Err(Unbatchable::Rows {
                name: output.name.clone(),
                shape: output.shape.clone(),
                rows: total,
            });
        }
        let mut rest = output.data.clone();
        let elements = output.shape[1..]
            .iter()
            .map(|dim| usize::try_from(*dim).unwrap_or(0))
            .product::<usize>();
        for (part, rows) in parts.iter_mut().zip(rows) {
            let data = rest.split_to(length(&rest, output.datatype, rows * elements));
            let mut shape = output.shape.clone();
            shape[0] = i64::try_from(*rows).unwrap_or(i64::MAX);
            part.push(Tensor {
                name: output.name.clone(),
                datatype: output.datatype,
                shape,
                data,
            });
        }
    }
    Ok(parts)
}

/// Bytes of the first `elements` elements.
fn length(data: &Bytes, datatype: DataType, elements: usize) -> usize {
    match datatype.size() {
        Some(size) => size * elements,
        None => string_end(data, elements),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tensor::push_string;
    use super::super::{Priority, Via};
    use super::*;

    fn request(inputs: Vec<Tensor>) -> InferRequest {
        InferRequest {
            inputs,
            outputs: Vec::new(),
            via: Via::Wasm,
            deadline: None,
            priority: Priority::default(),
        }
    }

    fn bytes(shape: &[i64], data: &[u8]) -> Tensor {
        Tensor {
            name: "x".into(),
            datatype: DataType::Uint8,
            shape: shape.to_vec(),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn requests_join_only_if_all_but_the_rows_is_the_same() {
        let one = request(vec![bytes(&[1, 2], b"ab")]);
        let two = request(vec![bytes(&[2, 2], b"cdef")]);
        assert!(joins(&one, &two));
        let wider = request(vec![bytes(&[1, 3], b"abc")]);
        let empty = request(vec![bytes(&[0, 2], b"")]);
        let scalar = request(vec![bytes(&[], b"a")]);
        let other_output = InferRequest {
            outputs: vec!["y".into()],
            ..one.clone()
        };
        for other in [wider, empty, scalar, other_output] {
            assert!(!joins(&one, &other), "{other:?}");
        }
        let uneven = request(vec![bytes(&[1, 2], b"ab"), bytes(&[2, 2], b"cdef")]);
        assert_eq!(rows(&uneven), None);
    }

    #[test]
    fn only_free_first_dimensions_make_a_batch() {
        let info = |shape: &[i64]| TensorInfo {
            name: "t".into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
        };
        assert_eq!(declared(&[info(&[-1, 64])], &[info(&[-1, 8])]), Ok(()));
        let fixed = declared(&[info(&[-1, 64]), info(&[2, -1, 128])], &[info(&[-1])]);
        assert_eq!(
            fixed.unwrap_err().to_string(),
            "input 't' has shape [2, -1, 128], its first dimension is not free"
        );
        let scalar = declared(&[info(&[-1, 64])], &[info(&[])]).unwrap_err();
        assert!(matches!(scalar, Unbatchable::Fixed { kind: "output", .. }));
    }

    #[test]
    fn an_output_with_other_rows_is_not_split() {
        let error = split(&[bytes(&[4, 1], b"abcd")], &[1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "output 'x' has shape [4, 1] after a run on 3 rows"
        );
    }

    proptest! {
        #[test]
        fn what_was_joined_splits_into_what_it_was(
            parts in prop::collection::vec((1..5_usize, prop::collection::vec("[a-z]{0,4}", 12)), 1..6)
        ) {
            let requests: Vec<InferRequest> = parts.iter().map(|(rows, words)| {
                let mut strings = Vec::new();
                words[..rows * 3].iter().for_each(|word| push_string(&mut strings, word.as_bytes()));
                let rows = i64::try_from(*rows).expect("small");
                let text = Tensor { datatype: DataType::Bytes, ..bytes(&[rows, 3], &strings) };
                let numbers = bytes(&[rows, 2, 1], &strings.repeat(4)[..usize::try_from(rows).expect("small") * 2]);
                request(vec![text, numbers])
            }).collect();
            let all: Vec<&InferRequest> = requests.iter().collect();
            let joined = join(&all);
            joined.iter().for_each(|tensor| assert_eq!(tensor.check(), Ok(())));
            let rows: Vec<usize> = requests.iter().filter_map(rows).collect();
            let split = split(&joined, &rows).expect("rows add up");
            let back: Vec<Vec<Tensor>> = requests.into_iter().map(|request| request.inputs).collect();
            prop_assert_eq!(split, back);
        }
    }
}
