//! The trace that a request belongs to (W3C Trace Context, level 1).
//!
//! The runtime reports no spans of its own, so it hands a client's context on
//! unchanged: to the guest, and with what the guest sends out. A request
//! without one begins a trace with the first request that its guest sends out.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Where the trace id lies in a `traceparent`.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// The trace context of one call.
#[derive(Debug, Default)]
pub(super) struct Trace {
    parent: OnceLock<HeaderValue>,
    state: Option<HeaderValue>,
}

impl Trace {
    /// The request's context; what is malformed is taken out of the headers.
    pub(super) fn take_from(headers: &mut HeaderMap) -> Self {
        let trace = Self::default();
        let Some(parent) = headers.get(PARENT) else {
            return trace;
        };
        if !is_valid(parent.as_bytes()) || headers.get_all(PARENT).iter().count() > 1 {
            headers.remove(PARENT);
            headers.remove(STATE);
            return trace;
        }
        Self {
            parent: OnceLock::from(parent.clone()),
            state: headers.get(STATE).cloned(),
        }
    }

    /// Adds the context to a request that goes out, unless its sender did.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if headers.contains_key(PARENT) {
            return;
        }
        headers.insert(PARENT, self.parent.get_or_init(begin).clone());
        if let Some(state) = &self.state {
            headers.insert(STATE, state.clone());
        }
    }

    /// The trace's id for the log, if there is a trace.
    pub(super) fn id(&self) -> Option<&str> {
        let parent = self.parent.get()?.to_str().ok()?;
        parent.get(TRACE_ID)
    }
}

/// A new trace, not sampled: whoever samples is asked further on.
fn begin() -> HeaderValue {
    let mut random = [0_u8; 24];
    // Without randomness the context is all zeroes, which the next hop leaves out.
    let _ = getrandom::fill(&mut random);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let text = format!("00-{}-{}-00", hex(&random[..16]), hex(&random[16..]));
    HeaderValue::try_from(text).expect("hexadecimal digits are valid in a header")
}

/// `version-traceid-parentid-flags` in small hexadecimal digits, none of the
/// ids zero. A version above 0 may have more after the flags.
fn is_valid(parent: &[u8]) -> bool {
    let parts: Vec<&[u8]> = parent.splitn(5, |b| *b == b'-').collect();
    let [version, trace, span, flags, more @ ..] = &parts[..] else {
        return false;
    };
    let hex = |part: &[u8], length: usize| {
        part.len() == length && part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |part: &[u8]| part.iter().any(|b| *b != b'0');
    hex(version, 2)
        && *version != b"ff"
        && hex(trace, 32)
        && not_zero(trace)
        && hex(span, 16)
        && not_zero(span)
        && hex(flags, 2)
        && (more.is_empty() || *version != b"00")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_context_goes_on_unchanged() {
        let mut request = headers(&[("traceparent", GOOD), ("tracestate", "a=1")]);
        let trace = Trace::take_from(&mut request);
        assert_eq!(request["traceparent"], GOOD);
        assert_eq!(trace.id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        let mut out = HeaderMap::new();
        trace.add_to(&mut out);
        assert_eq!(
            (&out["traceparent"], &out["tracestate"]),
            (&GOOD.parse().unwrap(), &"a=1".parse().unwrap())
        );
    }

    #[test]
    fn a_malformed_context_is_taken_away_with_its_state() {
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "",
        ] {
            let mut request = headers(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert_eq!(Trace::take_from(&mut request).id(), None, "{bad}");
            assert!(request.is_empty(), "{bad}");
        }
        let mut twice = headers(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(Trace::take_from(&mut twice).id(), None);
        let newer = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what";
        assert!(
            Trace::take_from(&mut headers(&[("traceparent", newer)]))
                .id()
                .is_some()
        );
    }

    #[test]
    fn a_call_without_a_context_begins_one_trace_for_all_that_it_sends() {
        let trace = Trace::take_from(&mut HeaderMap::new());
        let [mut first, mut second] = [HeaderMap::new(), HeaderMap::new()];
        trace.add_to(&mut first);
        trace.add_to(&mut second);
        assert!(is_valid(first["traceparent"].as_bytes()));
        assert_eq!(first, second);
        let mut own = headers(&[("traceparent", GOOD)]);
        trace.add_to(&mut own);
        assert_eq!(own["traceparent"], GOOD);
    }
}
