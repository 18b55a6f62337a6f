use std::collections::BTreeMap;
use std::fmt;

use super::opcua::bad_opcua;
use super::{FileFormat, FileSource, MOST_VALUES, ModbusSource, ModbusType, MqttSource, Source};
use crate::event;
use crate::ids::Name;
use crate::strict;

/// What is wrong with `[[source]]` entries, in the order of their lines.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceProblems(Vec<(usize, SourceProblem)>);

/// One thing that is wrong; reads well after the line's number and a colon.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceProblem {
    /// Nothing to read from.
    #[error("source {0} reads from nothing: give it one of mqtt, modbus, opcua and file")]
    Nothing(Name),
    /// More than one protocol.
    #[error("source {name} has {given}: keep one of mqtt, modbus, opcua and file")]
    Several {
        /// The source.
        name: Name,
        /// What it has.
        given: String,
    },
    /// Two sources share a name.
    #[error("source {name} stands in line {first} already: give each its own name")]
    Twice {
        /// The source.
        name: Name,
        /// Line of the first entry.
        first: usize,
    },
    /// A value that cannot be followed.
    #[error("source {name} has {key} = {value}: use {allowed}")]
    Value {
        /// The source.
        name: Name,
        /// The key, such as `modbus.address`.
        key: String,
        /// Its value.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
}

/// Key, value, and what may stand there.
pub(super) type Bad = (String, String, &'static str);

impl SourceProblems {
    /// What is wrong with `entries`, which were read from `text`; nothing if all is well.
    pub fn of(entries: &[Source], text: &str) -> Option<Self> {
        let line = |i: usize, key: &str| {
            let entry = format!("source.{i}");
            // What is left out has no line of its own: that of what it belongs in.
            let mut key = key;
            loop {
                if let Some(line) = strict::line(text, &format!("{entry}.{key}")) {
                    return line;
                }
                match key.rsplit_once('.') {
                    Some((outer, _)) => key = outer,
                    None => break,
                }
            }
            strict::line(text, &format!("{entry}.name")).unwrap_or(1)
        };
        let mut problems = Vec::new();
        let mut names: BTreeMap<&Name, usize> = BTreeMap::new();
        for (i, entry) in entries.iter().enumerate() {
            let name = || entry.name.clone();
            if let Some(&first) = names.get(&entry.name) {
                let first = line(first, "name");
                problems.push((
                    line(i, "name"),
                    SourceProblem::Twice {
                        name: name(),
                        first,
                    },
                ));
            }
            names.entry(&entry.name).or_insert(i);
            let given: Vec<_> = given(entry).collect();
            match given.as_slice() {
                [] => problems.push((line(i, "name"), SourceProblem::Nothing(name()))),
                [_] => {}
                [first, ..] => problems.push((
                    line(i, first),
                    SourceProblem::Several {
                        name: name(),
                        given: given.join(" and "),
                    },
                )),
            }
            for (key, value, allowed) in bad_values(entry) {
                let at = line(i, &key);
                problems.push((
                    at,
                    SourceProblem::Value {
                        name: name(),
                        key,
                        value,
                        allowed,
                    },
                ));
            }
        }
        problems.sort_by_key(|(line, _)| *line);
        (!problems.is_empty()).then_some(Self(problems))
    }
}

impl fmt::Display for SourceProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(line, problem)| write!(f, "\n  line {line}: {problem}"))
    }
}

fn given(source: &Source) -> impl Iterator<Item = &'static str> {
    [
        ("mqtt", source.mqtt.is_some()),
        ("modbus", source.modbus.is_some()),
        ("opcua", source.opcua.is_some()),
        ("file", source.file.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
}

fn bad_values(source: &Source) -> Vec<Bad> {
    let mut bad = Vec::new();
    if source.stream.as_str() == event::STREAM {
        let value = source.stream.to_string();
        bad.push((
            "stream".to_owned(),
            value,
            "another stream; that one is the node's own",
        ));
    }
    source.mqtt.iter().for_each(|mqtt| bad_mqtt(mqtt, &mut bad));
    source.modbus.iter().for_each(|m| bad_modbus(m, &mut bad));
    source.opcua.iter().for_each(|o| bad_opcua(o, &mut bad));
    source.file.iter().for_each(|file| bad_file(file, &mut bad));
    bad
}

fn bad_mqtt(mqtt: &MqttSource, bad: &mut Vec<Bad>) {
    let mut say =
        |key: &str, value: String, allowed| bad.push((format!("mqtt.{key}"), value, allowed));
    match (&mqtt.broker, mqtt.listen) {
        (Some(broker), None) => {
            if !is_broker(broker) {
                say(
                    "broker",
                    broker.clone(),
                    "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]",
                );
            }
            if broker.starts_with("mqtts://") && mqtt.ca.is_none() {
                say(
                    "ca",
                    "nothing".to_owned(),
                    "the path of a file with the broker's CA certificates",
                );
            }
            if mqtt.topics.is_empty() {
                say(
                    "topics",
                    "[]".to_owned(),
                    "at least one topic filter, such as [\"plant/+/temperature\"]",
                );
            }
            if mqtt.users.is_some() {
                say(
                    "users",
                    "a secret".to_owned(),
                    "it for a listener alone; a broker has users of its own",
                );
            }
        }
        (None, Some(_)) => {
            if mqtt.username.is_some() || mqtt.password.is_some() {
                say(
                    "username",
                    "a user".to_owned(),
                    "users for a listener, the name of a secret",
                );
            }
        }
        (Some(_), Some(_)) => say("listen", "an address".to_owned(), "either broker or listen"),
        (None, None) => say("broker", "nothing".to_owned(), "either broker or listen"),
    }
    for filter in &mqtt.topics {
        if !is_filter(filter) {
            say(
                "topics",
                format!("{filter:?}"),
                "filters with + for one level and # as the last",
            );
        }
    }
    if mqtt.connections == Some(0) {
        say("connections", "0".to_owned(), "at least 1");
    }
    if mqtt
        .packet
        .is_some_and(|p| !(128..=256 << 20).contains(&p.0))
    {
        say("packet", "that".to_owned(), "128B to 256MiB");
    }
}

fn bad_modbus(modbus: &ModbusSource, bad: &mut Vec<Bad>) {
    let mut say =
        |key: String, value: String, allowed| bad.push((format!("modbus.{key}"), value, allowed));
    if !is_host_port(&modbus.address) {
        say(
            "address".to_owned(),
            modbus.address.clone(),
            "HOST:PORT, as in 10.0.0.7:502",
        );
    }
    for (key, span, least) in [("every", modbus.every, 10), ("timeout", modbus.timeout, 10)] {
        if span.ms() < least {
            say(key.to_owned(), span.to_string(), "at least 10ms");
        }
    }
    if modbus.values.is_empty() || modbus.values.len() > MOST_VALUES {
        say(
            "values".to_owned(),
            format!("{} values", modbus.values.len()),
            "1 to 10000",
        );
    }
    for (i, value) in modbus.values.iter().enumerate() {
        let key = |key: &str| format!("values.{i}.{key}");
        if modbus.values[..i].iter().any(|v| v.name == value.name) || value.name.is_empty() {
            say(
                key("name"),
                format!("{:?}", value.name),
                "a name of its own for each value",
            );
        }
        if value.register.kind.is_bit() && value.kind() != ModbusType::Bool {
            let kind = format!("{:?}", value.kind()).to_lowercase();
            say(key("type"), kind, "bool, which is all that a bit can be");
        }
        let end = u32::from(value.register.address) + u32::from(value.kind().registers());
        if end > 1 << 16 {
            say(
                key("register"),
                value.register.to_string(),
                "an address that leaves room for all of its registers",
            );
        }
        if !value.scale.is_finite() || value.scale == 0.0 || !value.offset.is_finite() {
            say(
                key("scale"),
                value.scale.to_string(),
                "finite numbers for scale and offset, and not 0 for scale",
            );
        }
        if value.deadband.is_some_and(|d| !(d.is_finite() && d >= 0.0)) {
            say(
                key("deadband"),
                text(value.deadband),
                "a number that is not negative",
            );
        }
    }
}

fn bad_file(file: &FileSource, bad: &mut Vec<Bad>) {
    if !file.path.starts_with('/') {
        bad.push((
            "file.path".to_owned(),
            format!("{:?}", file.path),
            "an absolute path",
        ));
    }
    if file.every.ms() < 10 {
        bad.push((
            "file.every".to_owned(),
            file.every.to_string(),
            "at least 10ms",
        ));
    }
    if let Some(delimiter) = file.delimiter {
        let fits = delimiter.is_ascii() && !matches!(delimiter, '"' | '\n' | '\r');
        if file.format != FileFormat::Csv || !fits {
            bad.push((
                "file.delimiter".to_owned(),
                format!("{delimiter:?}"),
                "it with format \"csv\" alone, and an ASCII character that is no quote or line break",
            ));
        }
    }
}

fn is_broker(text: &str) -> bool {
    let host = text
        .strip_prefix("mqtt://")
        .or_else(|| text.strip_prefix("mqtts://"));
    host.is_some_and(|host| {
        !host.is_empty()
            && !host.contains(['/', '@', ' '])
            && match host.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => {
                    !name.is_empty() && port.parse::<u16>().is_ok()
                }
                _ => true,
            }
    })
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// The rules of MQTT 5, 4.7.1.
fn is_filter(filter: &str) -> bool {
    let levels: Vec<_> = filter.split('/').collect();
    let last = levels.len() - 1;
    let level = |(i, level): (usize, &&str)| match *level {
        "#" => i == last,
        "+" => true,
        level => !level.contains(['+', '#', '\0']),
    };
    !filter.is_empty() && filter.len() <= 65_535 && levels.iter().enumerate().all(level)
}

fn text(number: Option<f64>) -> String {
    number.map_or_else(String::new, |n| n.to_string())
}
