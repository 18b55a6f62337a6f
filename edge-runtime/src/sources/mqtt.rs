//! MQTT: what devices publish becomes records. The device's PUBACK comes after
//! the commit, on both ways.
//!
//! ```text
//!  plant broker ─► subscription ─┐
//!  devices ─► listener: session ─┴─► message ─► one commit per batch ─► PUBACK
//! ```

mod listener;
mod message;
mod session;
mod subscription;
mod wire;

use fleet_api::source::MqttSource;

use super::{Context, Reconnect};

/// Packets that may be larger than a record, for topic and properties.
const PACKET_BYTES: usize = 256 << 10;

/// Runs the source until it is stopped.
pub(super) async fn run(context: &Context, mqtt: &MqttSource) {
    let mut turns = Reconnect::new(&context.intake);
    match mqtt.listen {
        Some(address) => while turns.after(listener::run(context, mqtt, address)).await {},
        None => while turns.after(subscription::run(context, mqtt)).await {},
    }
}

fn packet_bytes(mqtt: &MqttSource) -> usize {
    mqtt.packet.map_or(PACKET_BYTES, |bytes| bytes.as_usize())
}
