//! Scores of classes as clients of the classification extension read them: the best few, each as
//! `score:index:label`.

use std::cmp::Ordering;
use std::fmt::Display;

use bytes::Bytes;

use super::card::Description;
use super::error::ModelError;
use super::tensor::{DataType, Tensor, push_string};

/// Puts in place of an output's scores its `count` best classes, along the last dimension.
pub(crate) fn best(
    scores: &Tensor,
    count: usize,
    description: &Description,
) -> Result<Tensor, ModelError> {
    let card = description.scores.as_ref();
    let card = card.filter(|card| card.output == scores.name);
    let softmax = card.is_some_and(|card| card.softmax);
    let Some((classes, batch)) = scores.shape.split_last() else {
        return Err(no_scores(scores));
    };
    let classes = usize::try_from(*classes).unwrap_or(0);
    let rows = Rows {
        data: &scores.data,
        classes,
        count: count.min(classes),
        labels: &description.labels,
    };
    macro_rules! ranked {
        ($kind:ty) => {
            rows.each(softmax, <$kind>::from_le_bytes, |value| value as f64)
        };
    }
    let data = match scores.datatype {
        DataType::Fp32 => ranked!(f32),
        DataType::Fp64 => rows.each(softmax, f64::from_le_bytes, |value| value),
        DataType::Fp16 => rows.each(softmax, half, f64::from),
        DataType::Bf16 => rows.each(softmax, brain, f64::from),
        DataType::Uint8 => ranked!(u8),
        DataType::Uint16 => ranked!(u16),
        DataType::Uint32 => ranked!(u32),
        DataType::Uint64 => ranked!(u64),
        DataType::Int8 => ranked!(i8),
        DataType::Int16 => ranked!(i16),
        DataType::Int32 => ranked!(i32),
        DataType::Int64 => ranked!(i64),
        DataType::Bool | DataType::Bytes => return Err(no_scores(scores)),
    };
    let best = i64::try_from(rows.count).unwrap_or(i64::MAX);
    Ok(Tensor {
        name: scores.name.clone(),
        datatype: DataType::Bytes,
        shape: batch.iter().copied().chain([best]).collect(),
        data,
    })
}

fn no_scores(tensor: &Tensor) -> ModelError {
    ModelError::Mismatch(format!(
        "output '{}' has datatype {} and shape {:?}, which are no scores to classify by",
        tensor.name, tensor.datatype, tensor.shape
    ))
}

struct Rows<'a> {
    data: &'a [u8],
    classes: usize,
    count: usize,
    labels: &'a [String],
}

impl Rows<'_> {
    fn each<const N: usize, T: Display + PartialOrd + Copy>(
        &self,
        softmax: bool,
        read: impl Fn([u8; N]) -> T,
        wide: impl Fn(T) -> f64,
    ) -> Bytes {
        let mut out = Vec::new();
        let elements = self.data.as_chunks::<N>().0;
        for row in elements.chunks(self.classes.max(1)) {
            let scores: Vec<T> = row.iter().map(|chunk| read(*chunk)).collect();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            let by_score = |a: &usize, b: &usize| descending(scores[*a], scores[*b]).then(a.cmp(b));
            if self.count < order.len() && self.count > 0 {
                order.select_nth_unstable_by(self.count - 1, by_score);
                order.truncate(self.count);
            }
            order.sort_unstable_by(by_score);
            let whole = order.first().filter(|_| softmax).map(|first| {
                let most = wide(scores[*first]);
                let sum: f64 = scores.iter().map(|score| (wide(*score) - most).exp()).sum();
                (most, sum)
            });
            for index in order.into_iter().take(self.count) {
                let label = self.labels.get(index).filter(|label| !label.is_empty());
                let label = label.map(|label| format!(":{label}")).unwrap_or_default();
                let text = match whole {
                    Some((most, sum)) => {
                        let share = (wide(scores[index]) - most).exp() / sum;
                        format!("{share:.6}:{index}{label}")
                    }
                    None => format!("{}:{index}{label}", scores[index]),
                };
                push_string(&mut out, text.as_bytes());
            }
        }
        out.into()
    }
}

/// The better score first; what is no number comes last.
fn descending<T: PartialOrd>(a: T, b: T) -> Ordering {
    let is_number = |value: &T| value.partial_cmp(value).is_some();
    b.partial_cmp(&a)
        .unwrap_or_else(|| is_number(&b).cmp(&is_number(&a)))
}

fn brain(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

fn half(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * (-24_f32).exp2(),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * ((exponent - 15) as f32).exp2(),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::super::card::ScoresCard;
    use super::*;

    fn floats(shape: &[i64], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor {
            name: "y".into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: data.into(),
        }
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        let strings = tensor.strings();
        strings
            .map(|s| String::from_utf8(s.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn the_best_classes_of_each_row_are_told_with_their_labels() {
        let description = Description {
            labels: vec!["cat".into(), String::new(), "dog".into()],
            ..Description::default()
        };
        let scores = floats(&[2, 3], &[0.25, 0.5, 0.125, 1.0, f32::NAN, 3e10]);
        let told = best(&scores, 2, &description).unwrap();
        assert_eq!(
            (told.datatype, &told.shape[..]),
            (DataType::Bytes, &[2, 2][..])
        );
        assert_eq!(
            texts(&told),
            ["0.5:1", "0.25:0:cat", "30000000000:2:dog", "1:0:cat"]
        );
        told.check().unwrap();
        let all = best(&scores, 10, &Description::default()).unwrap();
        assert_eq!(all.shape, [2, 3]);
        assert_eq!(texts(&all)[3..], ["30000000000:2", "1:0", "NaN:1"]);
    }

    #[test]
    fn equal_scores_keep_their_order() {
        let told = best(&floats(&[4], &[1.0; 4]), 3, &Description::default()).unwrap();
        assert_eq!(texts(&told), ["1:0", "1:1", "1:2"]);
    }

    #[test]
    fn scores_become_shares_if_the_card_says_so() {
        let description = Description {
            scores: Some(ScoresCard {
                output: "y".into(),
                top: 5,
                softmax: true,
            }),
            ..Description::default()
        };
        let told = best(&floats(&[1, 2], &[1000.0, 1000.0]), 2, &description).unwrap();
        assert_eq!(texts(&told), ["0.500000:0", "0.500000:1"]);
    }

    #[test]
    fn what_has_no_scores_is_refused_and_no_rows_are_none() {
        let mut scalar = floats(&[], &[1.0]);
        let error = best(&scalar, 1, &Description::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "output 'y' has datatype FP32 and shape [], which are no scores to classify by"
        );
        scalar.shape = vec![1];
        scalar.datatype = DataType::Bytes;
        assert!(best(&scalar, 1, &Description::default()).is_err());
        for shape in [[0, 3], [3, 0]] {
            let none = best(&floats(&shape, &[]), 2, &Description::default()).unwrap();
            none.check().unwrap();
        }
    }

    #[test]
    fn every_numeric_type_has_scores() {
        for datatype in DataType::ALL {
            let Some(size) = datatype.size().filter(|_| datatype != DataType::Bool) else {
                continue;
            };
            let tensor = Tensor {
                name: "y".into(),
                datatype,
                shape: vec![2],
                data: [vec![0; size], vec![0x3c; size]].concat().into(),
            };
            let told = texts(&best(&tensor, 1, &Description::default()).unwrap());
            assert!(told[0].ends_with(":1"), "{datatype}: {told:?}");
        }
        assert_eq!(half([0x00, 0x3c]).to_string(), "1");
        assert_eq!(half([0x01, 0x80]), -(-24_f32).exp2());
        assert_eq!(half([0x00, 0xfc]), f32::NEG_INFINITY);
        assert_eq!(brain([0x80, 0x3f]).to_string(), "1");
    }
}
