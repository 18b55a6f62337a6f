//! Modbus TCP: registers are read in turns, and what has changed becomes records.
//!
//! ```text
//!  plan: values ─► blocks (one request each) ─► poll ─► decode ─► change? ─► one commit per turn
//! ```

mod decode;
mod plan;

use std::time::Duration;

use fleet_api::source::{ModbusSource, ModbusValue, RegisterKind};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_modbus::client::{Context as Client, Reader as _, tcp};
use tokio_modbus::{ExceptionCode, Slave};

use self::decode::Registers;
use self::plan::{Block, blocks};
use super::intake::IntakeError;
use super::reading::{Change, Quality, Reading};
use super::{Context, Reconnect};

/// Why a device is not read any more.
#[derive(Debug, thiserror::Error)]
enum ModbusError {
    #[error("the device {address} is not reachable")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection to the device broke")]
    Broken(#[source] tokio_modbus::Error),
    #[error("the device did not answer within {0:?}")]
    Silent(Duration),
}

/// What each value was last, over all connections.
type Changes = Vec<Change>;

/// Runs the source until it is stopped.
pub(super) async fn run(context: &Context, modbus: &ModbusSource) {
    let mut turns = Reconnect::new(&context.intake);
    let mut changes: Changes = modbus
        .values
        .iter()
        .map(|value| Change::new(value.deadband))
        .collect();
    let mut lost = None;
    while turns
        .after(session(context, modbus, &mut changes, &mut lost))
        .await
    {
        // What cannot be read is bad, once, until it can be read again.
        if let Some(reason) = lost.take()
            && tell_bad(context, modbus, &mut changes, &reason)
                .await
                .is_err()
        {
            return;
        }
    }
}

/// One connection, until it breaks or the source stops; then `lost` says why.
async fn session(
    context: &Context,
    modbus: &ModbusSource,
    changes: &mut Changes,
    lost: &mut Option<String>,
) -> Result<(), ModbusError> {
    let ended = poll(context, modbus, changes).await;
    if let Err(error) = &ended {
        *lost = Some(crate::causes::chain(error));
    }
    ended
}

async fn poll(
    context: &Context,
    modbus: &ModbusSource,
    changes: &mut Changes,
) -> Result<(), ModbusError> {
    let limit = modbus.timeout.duration();
    let connect = timeout(limit, TcpStream::connect(&modbus.address));
    let stream = connect
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|source| ModbusError::Connect {
            address: modbus.address.clone(),
            source,
        })?;
    let _ = stream.set_nodelay(true);
    let mut client = tcp::attach_slave(stream, Slave(modbus.unit));
    let blocks = blocks(&modbus.values);
    let mut exceptions: Vec<Option<ExceptionCode>> = vec![None; blocks.len()];
    let mut clock = interval(modbus.every.duration());
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = context.intake.stop.cancelled() => return Ok(()),
            _ = clock.tick() => {}
        }
        let mut found: Vec<Found> = Vec::new();
        for (block, told) in blocks.iter().zip(&mut exceptions) {
            let read = timeout(limit, read(&mut client, block));
            let read = read.await.map_err(|_| ModbusError::Silent(limit))?;
            let registers = match read.map_err(ModbusError::Broken)? {
                Ok(registers) => {
                    *told = None;
                    Ok(registers)
                }
                Err(exception) => {
                    if *told != Some(exception) {
                        *told = Some(exception);
                        context.intake.report.error(&refusal(block, exception));
                    }
                    Err(refusal(block, exception))
                }
            };
            for &at in &block.values {
                let value = &modbus.values[at];
                found.push(match &registers {
                    Ok(registers) => {
                        let value = decode::value(value, block.start, registers);
                        let quality = match value {
                            // A number that JSON does not have is no measured value.
                            Value::Null => Quality::Bad,
                            _ => Quality::Good,
                        };
                        Found {
                            at,
                            value,
                            quality,
                            reason: None,
                        }
                    }
                    Err(reason) => Found::bad(at, reason),
                });
            }
        }
        context.intake.report.connected();
        let waiting = Instant::now();
        if record(context, modbus, changes, found).await.is_err() {
            return Ok(());
        }
        let skipped = waiting.elapsed().as_millis() / u128::from(modbus.every.ms());
        if skipped > 0 {
            let readings = u64::try_from(skipped).unwrap_or(u64::MAX);
            let why = "readings were left out while the stream took nothing";
            context.intake.report.lost(readings, why);
        }
    }
}

/// A value as it was found.
struct Found {
    at: usize,
    value: Value,
    quality: Quality,
    reason: Option<String>,
}

impl Found {
    fn bad(at: usize, reason: &str) -> Self {
        Self {
            at,
            value: Value::Null,
            quality: Quality::Bad,
            reason: Some(reason.to_owned()),
        }
    }
}

async fn tell_bad(
    context: &Context,
    modbus: &ModbusSource,
    changes: &mut Changes,
    reason: &str,
) -> Result<(), IntakeError> {
    let found = (0..modbus.values.len()).map(|at| Found::bad(at, reason));
    record(context, modbus, changes, found.collect()).await
}

/// Makes what has changed durable, in one commit.
async fn record(
    context: &Context,
    modbus: &ModbusSource,
    changes: &mut Changes,
    mut found: Vec<Found>,
) -> Result<(), IntakeError> {
    found.retain(|found| changes[found.at].is_new(&found.value, found.quality));
    if found.is_empty() {
        return Ok(());
    }
    found.sort_by_key(|found| found.at);
    let records = found.iter().map(|found| {
        let value: &ModbusValue = &modbus.values[found.at];
        let reading = Reading {
            source: context.name(),
            name: &value.name,
            value: found.value.clone(),
            unit: value.unit.as_deref(),
            quality: found.quality,
            reason: found.reason.as_deref(),
            time: None,
        };
        reading.record()
    });
    context
        .intake
        .store_what_fits(records.collect(), None)
        .await?;
    for found in found {
        changes[found.at].recorded(found.value, found.quality);
    }
    Ok(())
}

async fn read(client: &mut Client, block: &Block) -> tokio_modbus::Result<Registers> {
    let (start, count) = (block.start, block.count);
    Ok(match block.kind {
        RegisterKind::Coil => client.read_coils(start, count).await?.map(Registers::Bits),
        RegisterKind::Discrete => client
            .read_discrete_inputs(start, count)
            .await?
            .map(Registers::Bits),
        RegisterKind::Holding => client
            .read_holding_registers(start, count)
            .await?
            .map(Registers::Words),
        RegisterKind::Input => client
            .read_input_registers(start, count)
            .await?
            .map(Registers::Words),
    })
}

fn refusal(block: &Block, exception: ExceptionCode) -> String {
    let (kind, start, count) = (block.kind.as_str(), block.start, block.count);
    format!("the device refuses {count} registers from {kind}:{start}: {exception}")
}
