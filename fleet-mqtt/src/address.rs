use std::fmt;
use std::str::FromStr;

/// Where a broker listens: `mqtt://HOST:PORT`, or `mqtts://HOST:PORT` over TLS. The ports may be
/// left out: 1883 and 8883.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Why a text is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no broker's address: write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(wrong()),
        };
        let default = if tls { 8883 } else { 1883 };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An IPv6 address stands in brackets, for its colons.
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => default,
            None => return Err(wrong()),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c);
        if host.is_empty() || host.contains(odd) {
            return Err(wrong());
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_addresses() {
        for (text, full) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://10.0.0.1/", "mqtts://10.0.0.1:8883"),
            ("mqtt://[::1]:99", "mqtt://[::1]:99"),
            ("mqtts://b.example:1", "mqtts://b.example:1"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), full);
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "broker:1883",
            "http://b",
            "mqtt://",
            "mqtt://:1",
            "mqtt://b:0x1",
            "mqtt://b:70000",
            "mqtt://u@b",
            "mqtt://b/path",
            "mqtt://[::1",
            "mqtt://b c",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
