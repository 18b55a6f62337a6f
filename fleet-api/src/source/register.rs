use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A register's kind and its address on the wire, from 0; written as `holding:100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Register {
    /// Which of the device's four tables.
    pub kind: RegisterKind,
    /// Place in the table, from 0.
    pub address: u16,
}

crate::text_schema!(Register);

/// The four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisterKind {
    /// A bit that can be written.
    Coil,
    /// A bit that is only read.
    Discrete,
    /// 16 bits that can be written.
    Holding,
    /// 16 bits that are only read.
    Input,
}

impl RegisterKind {
    /// Whether it is one bit.
    pub fn is_bit(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Holding => "holding",
            Self::Input => "input",
        }
    }
}

/// A text is not a register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a register: write coil, discrete, holding or input, a colon and the address from 0 to 65535, as in \"holding:100\""
)]
pub struct RegisterError(String);

impl FromStr for Register {
    type Err = RegisterError;
    fn from_str(text: &str) -> Result<Self, RegisterError> {
        let parse = || {
            let (kind, address) = text.split_once(':')?;
            let kind = match kind {
                "coil" => RegisterKind::Coil,
                "discrete" => RegisterKind::Discrete,
                "holding" => RegisterKind::Holding,
                "input" => RegisterKind::Input,
                _ => return None,
            };
            let address = address.parse().ok()?;
            Some(Self { kind, address })
        };
        parse().ok_or_else(|| RegisterError(text.to_owned()))
    }
}

impl TryFrom<String> for Register {
    type Error = RegisterError;
    fn try_from(text: String) -> Result<Self, RegisterError> {
        text.parse()
    }
}

impl From<Register> for String {
    fn from(register: Register) -> Self {
        register.to_string()
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.address)
    }
}
