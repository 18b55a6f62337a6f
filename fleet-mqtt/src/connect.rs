use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::versions::{Client, Events, v3, v5};

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1: a publish that the broker refuses is acknowledged like one that it takes.
    V3,
}

/// A broker: where it is and how one speaks to it.
#[derive(Clone)]
pub struct Broker {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How to speak TLS; none is plain TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The version to speak; none is 5, and 3.1.1 with a broker that refuses 5.
    pub protocol: Option<Protocol>,
    /// How to log in beside a certificate.
    pub credentials: Option<Credentials>,
}

/// A name and its password, which is never shown.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What one client wants of a connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id; the broker lets each be connected once.
    pub client_id: String,
    /// How often both sides show that they live.
    pub keep_alive: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// Largest packet that it takes.
    pub incoming_bytes: u32,
    /// Publishes that may be under way.
    pub in_flight: u16,
    /// What the broker publishes, retained, if the client falls silent.
    pub will: Option<Will>,
    /// What the broker keeps of it while it is away; nothing if it is none.
    pub kept: Option<Kept>,
}

/// A session that outlives its connections: the broker gathers messages for it meanwhile, and
/// sends again what was not acknowledged with [`Client::acknowledge`].
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// How long the broker keeps it, in seconds. In 3.1.1 that is the broker's own affair.
    pub seconds: u32,
    /// Messages that may be there without an acknowledgement. In 3.1.1 that is, too.
    pub window: u16,
}

/// What is published in the name of a client that has fallen silent.
#[derive(Debug, Clone)]
pub struct Will {
    /// The topic's full name.
    pub topic: String,
    /// What is published.
    pub payload: Vec<u8>,
}

/// A connection that stands.
pub struct Connected {
    /// Sends.
    pub client: Client,
    /// Receives.
    pub events: Events,
    /// The version that is spoken.
    pub protocol: Protocol,
    /// Publishes that the broker lets be under way, if it says so.
    pub receive_max: Option<u16>,
    /// Largest packet that the broker takes, if it says so.
    pub max_packet: Option<usize>,
}

impl Session {
    /// Requests that may wait: publishes, or an acknowledgement for each packet id.
    pub(crate) fn requests(&self) -> usize {
        let acknowledgements = self.kept.map_or(1, |_| usize::from(u16::MAX));
        acknowledgements.max(self.in_flight.into())
    }
}

impl Broker {
    /// Connects: clean, so that nothing of an earlier connection is left at the broker, unless
    /// the session is to be kept.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`] or [`Error::Silent`].
    pub async fn connect(&self, session: &Session) -> Result<Connected, Error> {
        match self.protocol {
            Some(Protocol::V5) => v5::connect(self, session).await.map_err(|e| e.error),
            Some(Protocol::V3) => v3::connect(self, session).await.map_err(|e| e.error),
            None => match v5::connect(self, session).await {
                Ok(connected) => Ok(connected),
                Err(failed) if failed.perhaps_for_the_version => {
                    // If that fails as well, the first reason is the one worth telling.
                    v3::connect(self, session).await.map_err(|_| failed.error)
                }
                Err(failed) => Err(failed.error),
            },
        }
    }

    /// Host and port, for people.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "5" => Ok(Self::V5),
            "3.1.1" => Ok(Self::V3),
            _ => Err("a version of MQTT: \"5\" or \"3.1.1\""),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V3 => "3.1.1",
        })
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls.is_some() { " over TLS" } else { "" };
        write!(f, "Broker({}{tls})", self.name())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.username)
    }
}
