//! What is asked: models, bodies in both forms, and what an answer says.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fleet_tests::http;
use serde_json::{Value, json};

pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// A model with one float input, named `x`, and one float output.
pub(super) struct Model {
    pub(super) name: &'static str,
    /// What stands in tables.
    pub(super) title: &'static str,
    /// How many times as long as the tiny one it is loaded, for enough answers.
    pub(super) patience: u32,
    pub(super) shape: &'static [usize],
    pub(super) output: &'static str,
    /// Without the batch's dimension.
    pub(super) output_shape: &'static [usize],
}

pub(super) const TINY: Model = Model {
    name: "mlp",
    title: "tiny MLP",
    patience: 1,
    shape: &[1, 64],
    output: "y",
    output_shape: &[8],
};

/// All that are measured, the quickest first.
pub(super) const MODELS: [Model; 3] = [
    TINY,
    Model {
        name: "orientation",
        title: "classifier",
        patience: 1,
        shape: &[1, 3, 224, 224],
        output: "fetch_name_0",
        output_shape: &[4],
    },
    Model {
        name: "text-detect",
        title: "detector",
        patience: 2,
        shape: &[1, 3, 320, 320],
        output: "fetch_name_0",
        output_shape: &[1, 320, 320],
    },
];

/// How tensors travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Binary,
}

impl Form {
    pub(super) const ALL: [Form; 2] = [Form::Json, Form::Binary];

    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Json => "JSON",
            Form::Binary => "binary",
        }
    }
}

/// The body of a request, and what its headers say.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) content: Bytes,
    /// Length of the JSON before the tensor's bytes.
    pub(super) json_length: Option<usize>,
}

impl Body {
    /// A request with one tensor of this shape.
    pub(super) fn new(shape: &[usize], form: Form) -> Self {
        Self::with(shape, form, &json!({}))
    }

    /// The same with parameters.
    pub(super) fn with(shape: &[usize], form: Form, parameters: &Value) -> Self {
        let values = values(shape.iter().product());
        let mut parameters = parameters.clone();
        let mut input = json!({ "name": "x", "shape": shape, "datatype": "FP32" });
        match form {
            Form::Json => input["data"] = json!(values),
            Form::Binary => {
                input["parameters"] = json!({ "binary_data_size": size_of_val(&values[..]) });
                parameters["binary_data_output"] = json!(true);
            }
        }
        let json = json!({ "inputs": [input], "parameters": parameters }).to_string();
        let mut body = Self::json(json);
        if form == Form::Binary {
            body.json_length = Some(body.content.len());
            let tensor = values.iter().flat_map(|value| value.to_le_bytes());
            body.content = body.content.iter().copied().chain(tensor).collect();
        }
        body
    }

    /// A body that is JSON throughout.
    pub(super) fn json(text: String) -> Self {
        Self {
            content: text.into(),
            json_length: None,
        }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.json_length {
            Some(_) => "application/octet-stream",
            None => "application/json",
        }
    }

    /// A script for wrk that posts it.
    pub(super) fn script(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        let body = dir.join(format!("{name}.body"));
        std::fs::write(&body, &self.content)?;
        let mut text = format!(
            "wrk.method = \"POST\"\nwrk.body = io.open({:?}, \"rb\"):read(\"*a\")\nwrk.headers[\"content-type\"] = {:?}\n",
            body.display().to_string(),
            self.content_type(),
        );
        if let Some(length) = self.json_length {
            let _ = writeln!(text, "wrk.headers[{JSON_LENGTH:?}] = \"{length}\"");
        }
        let script = dir.join(format!("{name}.lua"));
        std::fs::write(&script, text)?;
        Ok(script)
    }

    /// Posts it once; the numbers of the only output.
    pub(super) async fn ask(&self, url: &str) -> Result<Vec<f32>> {
        let request = http::plain()?.post(url).body(self.content.clone());
        let mut request = request.header("content-type", self.content_type());
        if let Some(length) = self.json_length {
            request = request.header(JSON_LENGTH, length.to_string());
        }
        let answer = request.send().await?;
        let status = answer.status();
        let length = answer.headers().get(JSON_LENGTH).cloned();
        let body = answer.bytes().await?;
        ensure!(
            status == 200,
            "{url}: {status} {}",
            String::from_utf8_lossy(&body[..body.len().min(300)])
        );
        let Some(length) = length else {
            let answer: Value = serde_json::from_slice(&body)?;
            let data = answer["outputs"][0]["data"].as_array().context("data")?;
            let numbers = data
                .iter()
                .map(|n| Ok(n.as_f64().context("a number")? as f32));
            return numbers.collect();
        };
        let tensor = body.get(length.to_str()?.parse()?..).context("a tensor")?;
        let values = tensor.as_chunks().0.iter();
        Ok(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// Numbers between -1 and 1 with all their digits, always the same.
fn values(count: usize) -> Vec<f32> {
    let mut state = 7_u32;
    let next = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    });
    next.take(count).collect()
}

/// Fails if two answers differ by more than rounding.
pub(super) fn ensure_equal(ours: &[f32], theirs: &[f32]) -> Result<()> {
    ensure!(
        ours.len() == theirs.len(),
        "{} numbers, not {}",
        theirs.len(),
        ours.len()
    );
    let apart = ours.iter().zip(theirs).find(|(a, b)| {
        let difference = (*a - *b).abs();
        difference.is_nan() || difference > 1e-4 * a.abs().max(1.0)
    });
    ensure!(apart.is_none(), "answers differ: {apart:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_body_has_its_tensor_behind_the_json() {
        let body = Body::new(&[1, 64], Form::Binary);
        let length = body.json_length.expect("binary");
        let json: Value = serde_json::from_slice(&body.content[..length]).expect("JSON");
        assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 256);
        assert_eq!(body.content.len() - length, 256);
    }

    #[test]
    fn answers_that_differ_are_found() {
        assert!(ensure_equal(&[1.0, 100.0], &[1.0, 100.005]).is_ok());
        assert!(ensure_equal(&[1.0], &[1.001]).is_err());
        assert!(ensure_equal(&[1.0], &[f32::NAN]).is_err());
        assert!(ensure_equal(&[1.0], &[]).is_err());
    }
}
