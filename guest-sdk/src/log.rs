//! Lines for the node's log; it adds handler, version and request id. What is
//! printed goes there too.

use crate::capabilities::wasi::logging::logging::{self, Level};

/// For those who look for a fault in the handler.
pub fn debug(context: &str, message: &str) {
    logging::log(Level::Debug, context, message);
}

/// For those who watch it run.
pub fn info(context: &str, message: &str) {
    logging::log(Level::Info, context, message);
}

/// Something may go wrong.
pub fn warn(context: &str, message: &str) {
    logging::log(Level::Warn, context, message);
}

/// Something went wrong.
pub fn error(context: &str, message: &str) {
    logging::log(Level::Error, context, message);
}
