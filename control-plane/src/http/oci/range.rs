//! The Range header of a request (RFC 9110, section 14), as far as resuming needs it.

use std::ops::Range;

/// What a Range header asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// Nothing that is understood, so everything.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Outside,
}

/// Reads one range of bytes over a body of `size` bytes. Several ranges are answered with everything, as the rule allows.
pub(super) fn read(header: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = header
        .and_then(|h| h.trim().strip_prefix("bytes="))
        .and_then(|spec| spec.split_once('-'))
    else {
        return Asked::All;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (false, true) => match number(first) {
            Some(first) if first < size => Asked::Part(first..size),
            Some(_) => Asked::Outside,
            None => Asked::All,
        },
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Asked::All,
            (Some(first), Some(_)) if first >= size => Asked::Outside,
            (Some(first), Some(last)) => Asked::Part(first..size.min(last.saturating_add(1))),
            _ => Asked::All,
        },
        (true, false) => match number(last) {
            Some(0) => Asked::Outside,
            Some(_) if size == 0 => Asked::Outside,
            Some(n) => Asked::Part(size.saturating_sub(n)..size),
            None => Asked::All,
        },
        (true, true) => Asked::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_resuming_client_asks() {
        for (header, size, asked) in [
            (None, 10, Asked::All),
            (Some("bytes=3-"), 10, Asked::Part(3..10)),
            (Some("bytes=3-4"), 10, Asked::Part(3..5)),
            (Some("bytes=3-99"), 10, Asked::Part(3..10)),
            (Some("bytes=-4"), 10, Asked::Part(6..10)),
            (Some("bytes=-40"), 10, Asked::Part(0..10)),
            (Some("bytes=10-"), 10, Asked::Outside),
            (Some("bytes=0-"), 0, Asked::Outside),
            (Some("bytes=-0"), 10, Asked::Outside),
            (Some("bytes=5-3"), 10, Asked::All),
            (Some("bytes=1-2,4-5"), 10, Asked::All),
            (Some("lines=1-2"), 10, Asked::All),
            (
                Some("bytes=18446744073709551615-18446744073709551615"),
                10,
                Asked::Outside,
            ),
        ] {
            assert_eq!(read(header, size), asked, "{header:?} of {size}");
        }
    }
}
