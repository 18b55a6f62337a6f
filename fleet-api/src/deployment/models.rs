use std::collections::BTreeMap;
use std::fmt;

use super::{ModelEntry, Span};
use crate::ids::{Name, Version};
use crate::strict;

/// What is wrong with the `[[model]]` entries of a deployment, in the order of their lines.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelProblems(Vec<(usize, ModelProblem)>);

/// One thing that is wrong; reads well after the line's number and a colon.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelProblem {
    /// A value that no node could follow.
    #[error("model {name} {version} has {key} = {value}: use {allowed}")]
    Value {
        /// The model.
        name: Name,
        /// Its version.
        version: Version,
        /// The key, such as `batch.max`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Two entries are the same version.
    #[error("model {name} {version} stands in line {first} already: give it once")]
    Twice {
        /// The model.
        name: Name,
        /// Its version.
        version: Version,
        /// Line of the first entry.
        first: usize,
    },
    /// Two entries of a name want to be the default.
    #[error("model {name} has its default in line {first} already: only one version can be")]
    SecondDefault {
        /// The model.
        name: Name,
        /// Line of the first default.
        first: usize,
    },
    /// A shadow's outputs are sent to nobody.
    #[error(
        "model {name} {version} is a shadow and the default: a shadow never answers, take one of them out"
    )]
    DefaultShadow {
        /// The model.
        name: Name,
        /// Its version.
        version: Version,
    },
    /// Nobody would answer.
    #[error("model {name} has only shadows: give it a version that answers")]
    OnlyShadows {
        /// The model.
        name: Name,
    },
}

impl ModelProblems {
    /// What is wrong with `entries`, which were read from `text`; nothing if all is well.
    pub(super) fn of(entries: &[ModelEntry], text: &str) -> Option<Self> {
        let line = |i: usize, key: &str| {
            let entry = format!("model.{i}");
            // What is left out has no line of its own.
            strict::line(text, &format!("{entry}.{key}"))
                .or_else(|| strict::line(text, &format!("{entry}.name")))
                .unwrap_or(1)
        };
        let mut problems = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            for (key, value, allowed) in bad_values(entry) {
                let problem = ModelProblem::Value {
                    name: entry.name.clone(),
                    version: entry.version.clone(),
                    key,
                    value,
                    allowed,
                };
                problems.push((line(i, key), problem));
            }
        }
        let mut by_name: BTreeMap<&Name, Vec<usize>> = BTreeMap::new();
        for (i, entry) in entries.iter().enumerate() {
            by_name.entry(&entry.name).or_default().push(i);
        }
        for (name, places) in by_name {
            let name = || name.clone();
            let mut default = None;
            for (n, &i) in places.iter().enumerate() {
                let entry = &entries[i];
                let same = |&&j: &&usize| entries[j].version == entry.version;
                if let Some(&first) = places[..n].iter().find(same) {
                    let problem = ModelProblem::Twice {
                        name: name(),
                        version: entry.version.clone(),
                        first: line(first, "version"),
                    };
                    problems.push((line(i, "version"), problem));
                }
                if !entry.default {
                    continue;
                }
                if entry.shadow.is_some() {
                    let problem = ModelProblem::DefaultShadow {
                        name: name(),
                        version: entry.version.clone(),
                    };
                    problems.push((line(i, "default"), problem));
                }
                match default {
                    None => default = Some(i),
                    Some(first) => {
                        let problem = ModelProblem::SecondDefault {
                            name: name(),
                            first: line(first, "default"),
                        };
                        problems.push((line(i, "default"), problem));
                    }
                }
            }
            if places.iter().all(|&i| entries[i].shadow.is_some()) {
                let problem = ModelProblem::OnlyShadows { name: name() };
                problems.push((line(places[0], "shadow"), problem));
            }
        }
        problems.sort_by_key(|(line, _)| *line);
        (!problems.is_empty()).then_some(Self(problems))
    }
}

impl fmt::Display for ModelProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(line, problem)| write!(f, "\n  line {line}: {problem}"))
    }
}

const SESSIONS: u32 = 64;
const BATCH_MAX: u32 = 1024;
const BATCH_WINDOW: Span = Span::from_ms(10_000);

/// Keys with values out of range, and what may stand there.
fn bad_values(entry: &ModelEntry) -> Vec<(&'static str, String, &'static str)> {
    let mut bad = Vec::new();
    let mut want = |good: bool, key, value: String, allowed| {
        if !good {
            bad.push((key, value, allowed));
        }
    };
    if let Some(sessions) = entry.sessions {
        let good = (1..=SESSIONS).contains(&sessions);
        want(good, "sessions", sessions.to_string(), "1 to 64");
    }
    if let Some(batch) = &entry.batch {
        let good = (1..=BATCH_MAX).contains(&batch.max);
        want(good, "batch.max", batch.max.to_string(), "1 to 1024");
        let good = batch.window.ms() <= BATCH_WINDOW.ms();
        let window = format!("\"{}\"", batch.window);
        want(good, "batch.window", window, "up to \"10s\"");
    }
    if let Some(timeout) = entry.timeout {
        let good = timeout.ms() > 0;
        want(
            good,
            "timeout",
            format!("\"{timeout}\""),
            "at least \"1ms\"",
        );
    }
    if let Some(shadow) = &entry.shadow {
        let good = shadow.cpu > 0.0 && shadow.cpu <= 1.0;
        let share = "a share of one core above 0 and up to 1";
        want(good, "shadow.cpu", shadow.cpu.to_string(), share);
        let good = shadow.tolerance >= 0.0 && shadow.tolerance.is_finite();
        want(
            good,
            "shadow.tolerance",
            shadow.tolerance.to_string(),
            "0 or more",
        );
    }
    bad
}

/// Of the entries of one name, the one that answers requests which name no version: the one that says so, otherwise the
/// last that is no shadow.
pub fn default_of<'a>(entries: &[&'a ModelEntry]) -> Option<&'a ModelEntry> {
    let said = entries.iter().find(|entry| entry.default);
    let last = || entries.iter().rfind(|entry| entry.shadow.is_none());
    said.or_else(last).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Deployment;
    use super::*;

    fn read(models: &str) -> Result<Deployment, String> {
        let text = format!("[deployment]\nname = \"d\"\nselect = \"*\"\n{models}");
        Deployment::from_toml(&text, "line.toml").map_err(|e| e.to_string())
    }

    fn default(models: &str) -> String {
        let deployment = read(models).expect("valid");
        let entries: Vec<_> = deployment.models.iter().collect();
        default_of(&entries)
            .expect("one answers")
            .version
            .to_string()
    }

    #[test]
    fn versions_stand_side_by_side_and_one_is_the_default() {
        let one = "[[model]]\nname = \"m\"\nversion = \"1\"\n";
        let two = "[[model]]\nname = \"m\"\nversion = \"2\"\n";
        assert_eq!(default(&format!("{one}{two}")), "2");
        assert_eq!(default(&format!("{one}default = true\n{two}")), "1");
        assert_eq!(default(&format!("{one}{two}shadow = {{}}\n")), "1");
    }

    #[test]
    fn names_every_value_out_of_range_with_its_line() {
        let refusal = read(
            "[[model]]\nname = \"m\"\nversion = \"1\"\nsessions = 0\ntimeout = \"0s\"\nbatch = { max = 1025, window = \"11s\" }\n\
             [[model]]\nname = \"n\"\nversion = \"1\"\nsessions = 65\n[model.batch]\nmax = 0\n\
             [[model]]\nname = \"n\"\nversion = \"2\"\nshadow = { cpu = 1.5, tolerance = -1.0 }\n\
             [[model]]\nname = \"n\"\nversion = \"3\"\nshadow = { cpu = nan, tolerance = inf }\n",
        );
        insta::assert_snapshot!(refusal.expect_err("refused"));
    }

    #[test]
    fn names_entries_that_do_not_go_together() {
        let refusal = read(
            "[[model]]\nname = \"m\"\nversion = \"1\"\ndefault = true\n\
             [[model]]\nname = \"m\"\nversion = \"2\"\ndefault = true\nshadow = {}\n\
             [[model]]\nname = \"m\"\nversion = \"1\"\n\
             [[model]]\nname = \"n\"\nversion = \"1\"\nshadow = {}\n",
        );
        insta::assert_snapshot!(refusal.expect_err("refused"));
    }

    #[test]
    fn words_that_mean_nothing_are_named_with_their_line() {
        let refusal = read("[[model]]\nname = \"m\"\nversion = \"1\"\nload = \"lazy\"\n")
            .expect_err("refused");
        assert!(
            refusal.contains("line 7") && refusal.contains("`always` or `on-demand`"),
            "{refusal}"
        );
    }
}
