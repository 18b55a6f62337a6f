//! Sources: where a node gets records from by itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{Name, StreamName};
use crate::strict::{self, StrictError};
use crate::units::{ByteSize, Span};

mod opcua;
mod problems;
mod register;

pub use opcua::{Namespace, NodeName, NodeNameError, OpcuaNode, OpcuaSecurity, OpcuaSource};
pub use problems::{SourceProblem, SourceProblems};
pub use register::{Register, RegisterError, RegisterKind};

/// Values of one source; more belong into a second source.
const MOST_VALUES: usize = 10_000;

/// A `[[source]]`: where records come from and the stream that takes them. It
/// has exactly one of `mqtt`, `modbus`, `opcua` and `file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Source {
    /// Its name; it stands in every record.
    pub name: Name,
    /// The stream that takes its records.
    pub stream: StreamName,
    /// Messages of MQTT devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSource>,
    /// Registers that are polled over Modbus TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusSource>,
    /// Values that an OPC UA server tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcua: Option<OpcuaSource>,
    /// Lines that a program appends to a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
}

/// MQTT: a subscription to a broker, or a listener that devices publish to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MqttSource {
    /// The broker to subscribe at, `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// The address to listen on, instead of a broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub listen: Option<SocketAddr>,
    /// Topic filters: what is subscribed, or what a listener takes. A listener's default is all topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Keeps the payload alone as the record, without topic and source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// Name for the broker to know this source by. Default: the node's and the source's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// User at the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The node's secret with that user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Name>,
    /// A file on the node with the certificates that the broker's must come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The node's secret with the users of a listener, a line `USER:PASSWORD` each. Default: everybody may publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Name>,
    /// Connections to a listener at the same time. Default 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// The largest packet. Default 256KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<ByteSize>,
}

/// Registers that are polled over Modbus TCP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModbusSource {
    /// The device, `HOST:PORT`.
    pub address: String,
    /// The unit behind it. Default 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub unit: u8,
    /// How often the registers are read. Default 1s.
    #[serde(default = "second")]
    pub every: Span,
    /// How long an answer may take. Default 3s.
    #[serde(default = "three_seconds")]
    pub timeout: Span,
    /// What is read.
    pub values: Vec<ModbusValue>,
}

/// A named value in a device's registers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModbusValue {
    /// Its name.
    pub name: String,
    /// Where it begins, as in `holding:100`, counted from 0 as on the wire.
    pub register: Register,
    /// How it is written there. Default u16, for coils and discrete inputs bool.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModbusType>,
    /// In which order its bytes stand. Default abcd.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: ByteOrder,
    /// Factor from the register's number to the value. Default 1.
    #[serde(default = "one_f64", skip_serializing_if = "is_one_f64")]
    pub scale: f64,
    /// Added after the factor. Default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub offset: f64,
    /// Unit of the value, best by the UCUM, as in `Cel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A change that is not larger than this makes no record. Default: every change makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadband: Option<f64>,
}

/// How a value is written in registers of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ModbusType {
    /// A bit, or a register that is not 0.
    Bool,
    /// One register, signed.
    I16,
    /// One register.
    U16,
    /// Two registers, signed.
    I32,
    /// Two registers.
    U32,
    /// Four registers, signed.
    I64,
    /// Two registers, IEEE 754.
    F32,
    /// Four registers, IEEE 754.
    F64,
}

impl ModbusType {
    /// How many registers it takes.
    pub fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::I16 | Self::U16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
            Self::I64 | Self::F64 => 4,
        }
    }
}

impl ModbusValue {
    /// How it is written, with the default where nothing is said.
    pub fn kind(&self) -> ModbusType {
        self.kind.unwrap_or(if self.register.kind.is_bit() {
            ModbusType::Bool
        } else {
            ModbusType::U16
        })
    }
}

/// The order of a value's bytes over its registers, by the usual letters: `a` is the highest byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// High word first, high byte first: as Modbus has it.
    #[default]
    Abcd,
    /// Low word first, high byte first.
    Cdab,
    /// High word first, low byte first.
    Badc,
    /// Low word first, low byte first.
    Dcba,
}

/// A file that a program appends lines to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileSource {
    /// The file on the node.
    pub path: String,
    /// How its lines are read.
    pub format: FileFormat,
    /// What stands between the cells of a CSV line. Default a comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// How often the file is looked at. Default 500ms.
    #[serde(default = "half_second")]
    pub every: Span,
}

/// How a file's lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// The first line names the columns; a record per further line.
    Csv,
    /// A JSON value per line.
    JsonLines,
}

/// A file of `[[source]]` entries alone, for a runtime without a control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourcesFile {
    /// The sources.
    #[serde(default, rename = "source")]
    pub sources: Vec<Source>,
}

/// Why a file of sources is refused.
#[derive(Debug, thiserror::Error)]
pub enum SourcesFileError {
    /// Not TOML, not of the right types, or with unknown keys.
    #[error(transparent)]
    Syntax(#[from] StrictError),
    /// Sources that cannot run.
    #[error("{file} has sources that cannot run:{problems}")]
    Sources {
        /// The file's name, for people.
        file: String,
        /// All of them.
        problems: SourceProblems,
    },
}

impl SourcesFile {
    /// Reads and checks a file of sources.
    ///
    /// # Errors
    /// [`SourcesFileError`], with all problems and their lines at once.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, SourcesFileError> {
        let sources: Self = strict::from_toml(text, file)?;
        match SourceProblems::of(&sources.sources, text) {
            None => Ok(sources),
            Some(problems) => Err(SourcesFileError::Sources {
                file: file.to_owned(),
                problems,
            }),
        }
    }
}

impl Source {
    /// The protocol's name, for people: `mqtt`, `mqtt-listener`, `modbus`, `opcua` or `file`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self { mqtt: Some(m), .. } if m.listen.is_some() => "mqtt-listener",
            Self { mqtt: Some(_), .. } => "mqtt",
            Self {
                modbus: Some(_), ..
            } => "modbus",
            Self { opcua: Some(_), .. } => "opcua",
            _ => "file",
        }
    }
}

const fn one() -> u8 {
    1
}

const fn is_one(value: &u8) -> bool {
    *value == 1
}

const fn one_f64() -> f64 {
    1.0
}

const fn is_one_f64(value: &f64) -> bool {
    *value == 1.0
}

const fn half_second() -> Span {
    Span::from_ms(500)
}

const fn second() -> Span {
    Span::from_ms(1_000)
}

const fn three_seconds() -> Span {
    Span::from_ms(3_000)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESS: &str = r#"
[[source]]
name = "press-4"
stream = "press"
modbus = { address = "10.0.0.7:502", unit = 1, every = "500ms", values = [
  { name = "temperature", register = "holding:100", type = "f32", scale = 0.1, unit = "Cel", deadband = 0.5 },
  { name = "running", register = "coil:3" } ] }
[[source]]
name = "plant"
stream = "press"
mqtt = { broker = "mqtt://10.0.0.5:1883", topics = ["plant/+/temp"] }
[[source]]
name = "sensors"
stream = "press"
mqtt = { listen = "0.0.0.0:1884" }
[[source]]
name = "plc"
stream = "press"
opcua = { endpoint = "opc.tcp://10.0.0.8:4840", username = "edge", password = "plc", nodes = [
  { name = "pressure", node = "ns=2;s=Press4.Pressure", unit = "bar", deadband = 0.1 } ] }
[[source]]
name = "log"
stream = "press"
file = { path = "/var/log/press.csv", format = "csv" }
"#;

    #[test]
    fn reads_the_documented_examples() {
        let file = SourcesFile::from_toml(PRESS, "press.toml").expect("valid");
        let kinds: Vec<_> = file.sources.iter().map(Source::kind).collect();
        assert_eq!(kinds, ["modbus", "mqtt", "mqtt-listener", "opcua", "file"]);
        let modbus = file.sources[0].modbus.as_ref().expect("modbus");
        assert_eq!(modbus.values[0].kind(), ModbusType::F32);
        assert_eq!(modbus.values[1].kind(), ModbusType::Bool);
        let json = serde_json::to_string(&file).expect("serializes");
        assert_eq!(
            serde_json::from_str::<SourcesFile>(&json).expect("parses"),
            file
        );
    }

    #[test]
    fn names_every_problem_with_its_line() {
        let text = PRESS
            .replace("unit = \"Cel\", deadband = 0.5", "deadband = -1.0")
            .replace("\"coil:3\"", "\"coil:3\", type = \"f32\"")
            .replace(", topics = [\"plant/+/temp\"]", "")
            .replace(
                "username = \"edge\", ",
                "security = \"none\", every = \"1ms\", ",
            )
            .replace("file = {", "mqtt = { listen = \"0.0.0.0:1\" }\nfile = {");
        let error = SourcesFile::from_toml(&text, "press.toml").expect_err("refused");
        insta::assert_snapshot!(error.to_string(), @r#"
        press.toml has sources that cannot run:
          line 6: source press-4 has modbus.values.0.deadband = -1: use a number that is not negative
          line 7: source press-4 has modbus.values.1.type = f32: use bool, which is all that a bit can be
          line 11: source plant has mqtt.topics = []: use at least one topic filter, such as ["plant/+/temperature"]
          line 19: source plc has opcua.username = nothing: use the user that the password belongs to
          line 19: source plc has opcua.security = none: use sign or sign-and-encrypt: without, the password could be read on the way
          line 19: source plc has opcua.every = 1ms: use at least 10ms
          line 24: source log has mqtt and file: keep one of mqtt, modbus, opcua and file
        "#);
    }

    #[test]
    fn unknown_keys_and_wrong_registers_name_their_line() {
        let text = PRESS.replace("deadband = 0.5", "dead_band = 0.5");
        let error = SourcesFile::from_toml(&text, "press.toml").expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("line 6: source.0.modbus.values.0.dead_band"),
            "{error}"
        );
        let text = PRESS.replace("holding:100", "holdings:100");
        let error = SourcesFile::from_toml(&text, "press.toml").expect_err("refused");
        assert!(error.to_string().contains("holding:100"), "{error}");
    }
}
