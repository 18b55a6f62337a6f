//! MQTT for nodes and control plane: one client that speaks MQTT 5 and 3.1.1.
//!
//! ```text
//!  Broker (where, how, who) ─ connect ─► Connected ─┬─► Client  (publish, subscribe; never waits)
//!        5, and 3.1.1 if that is refused            └─► Events  (polled; what the broker says)
//! ```
//!
//! A connection is used once: its client keeps nothing for the next one, and its owner sends
//! again what was not acknowledged. What comes can be left with the broker until it is
//! acknowledged by hand ([`Kept`]). What the two versions call differently has one name here.

mod address;
mod connect;
mod error;
mod event;
mod versions;

pub use address::{Address, AddressError};
pub use connect::{Broker, Connected, Credentials, Kept, Protocol, Session, Will};
pub use error::Error;
pub use event::{Event, Refusal};
pub use versions::{Client, Events};
