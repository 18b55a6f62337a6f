//! The handler's configuration, as its deployment gives it.

use std::str::FromStr;

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

/// The value under `key` as a number or the like; none if the deployment does not set it.
///
/// # Errors
/// A sentence for the operator if it is set to something else.
pub fn parsed<T: FromStr>(key: &str) -> Result<Option<T>, String> {
    let Some(text) = value(key) else {
        return Ok(None);
    };
    let wrong = |_| {
        let kind = std::any::type_name::<T>();
        format!("the configured {key} {text:?} is not of the type {kind}")
    };
    text.trim().parse().map(Some).map_err(wrong)
}
