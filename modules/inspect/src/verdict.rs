//! From the model's scores to a verdict.

use serde::Serialize;

/// What the scores stand for, in their order.
const DEGREES: [u16; 4] = [0, 90, 180, 270];

/// Whether the label may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The right way up, and the model is sure enough.
    Pass,
    /// Turned, or the model is not sure enough.
    Reject,
}

/// What the model says of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether the label may go on.
    #[serde(rename = "verdict")]
    pub decision: Decision,
    /// By how much the picture is turned.
    pub orientation_deg: u16,
    /// Score of that orientation, 0 to 1.
    pub score: f32,
}

/// The body of an answer.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub verdict: Verdict,
    pub width: u32,
    pub height: u32,
    /// Time to decode the picture and make the tensor.
    pub prepare_ms: f64,
    /// Time that the model took, with the way to it and back.
    pub infer_ms: f64,
}

/// The verdict on the four scores; none if there are not four.
pub fn judge(scores: &[f32], threshold: f32) -> Option<Verdict> {
    let scores: [f32; 4] = scores.try_into().ok()?;
    let (best, score) = scores
        .into_iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let orientation_deg = DEGREES[best];
    let decision = if orientation_deg == 0 && score >= threshold {
        Decision::Pass
    } else {
        Decision::Reject
    };
    Some(Verdict {
        decision,
        orientation_deg,
        score,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_only_an_upright_label_with_a_sure_score() {
        let decision = |scores: &[f32]| judge(scores, 0.5).unwrap().decision;
        assert_eq!(decision(&[0.9, 0.05, 0.03, 0.02]), Decision::Pass);
        assert_eq!(decision(&[0.4, 0.3, 0.2, 0.1]), Decision::Reject);
        assert_eq!(decision(&[0.0, 0.0, 1.0, 0.0]), Decision::Reject);
        assert_eq!(
            judge(&[0.1, 0.2, 0.3, 0.4], 0.5).unwrap().orientation_deg,
            270
        );
    }

    #[test]
    fn refuses_scores_of_another_model() {
        assert_eq!(judge(&[0.5, 0.5], 0.5), None);
        assert_eq!(judge(&[], 0.5), None);
    }
}
