//! wasi:logging: the guest's own lines in the node's log, within its share.

use tracing::Level;
use wasmtime::Result;
use wasmtime::component::Linker;

use super::Host;
use super::bindings::wasi::logging::logging;
use crate::handlers::state::GuestState;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    logging::add_to_linker::<_, Host>(linker, |state| state)
}

impl logging::Host for GuestState {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> Result<()> {
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        self.log.line(level, &self.call, &context, &message);
        Ok(())
    }
}
