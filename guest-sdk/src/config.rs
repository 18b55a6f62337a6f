//! The handler's configuration, as its deployment gives it.

use crate::capabilities::wasi::config::store;

/// The value under `key`; none if the deployment does not set it or the host
/// cannot read it.
#[must_use]
pub fn value(key: &str) -> Option<String> {
    store::get(key).ok().flatten()
}

/// The value under `key`, or `default`.
#[must_use]
pub fn value_or(key: &str, default: &str) -> String {
    value(key).unwrap_or_else(|| default.to_owned())
}
