use percent_encoding::percent_decode_str;

use crate::streams::RecordRange;

/// What a request for records asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Which records.
    pub range: RecordRange,
    /// How many at most.
    pub limit: Option<u64>,
    /// Whether gaps are listed too.
    pub gaps: bool,
}

/// Why a query cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("{name}={value:?} is not a number")]
    Number { name: &'static str, value: String },
    #[error(
        "{name}={value:?} is no time: give it as 2026-11-25T14:00:00Z, or in milliseconds since the Unix epoch"
    )]
    Time { name: &'static str, value: String },
    #[error("gaps={0:?} is neither true nor false")]
    Flag(String),
    #[error("{0:?} is not known here: use {1}")]
    Unknown(String, &'static str),
    #[error("{0} lies after {1}: nothing can be between them")]
    Backwards(&'static str, &'static str),
}

/// What `GET /streams/NAME` takes.
pub(super) const OF_ROWS: &str = "from, to, since, until, limit and gaps";
/// What `GET /streams/NAME/live` takes.
pub(super) const OF_LIVE: &str = "from and since";

impl Query {
    /// Reads a request's query; `allowed` lists the names that it may have.
    pub(super) fn parse(query: Option<&str>, allowed: &'static str) -> Result<Self, QueryError> {
        let mut parsed = Self::default();
        let pairs = query
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let unknown = || QueryError::Unknown(name.to_owned(), allowed);
            if !allowed.split([',', ' ']).any(|known| known == name) {
                return Err(unknown());
            }
            let value = percent_decode_str(value).decode_utf8_lossy();
            let range = &mut parsed.range;
            match name {
                "from" => range.from = Some(number("from", &value)?),
                "to" => range.to = Some(number("to", &value)?),
                "since" => range.since_ms = Some(time("since", &value)?),
                "until" => range.until_ms = Some(time("until", &value)?),
                "limit" => parsed.limit = Some(number("limit", &value)?),
                "gaps" => {
                    parsed.gaps = match &*value {
                        "" | "true" | "1" => true,
                        "false" | "0" => false,
                        other => return Err(QueryError::Flag(other.to_owned())),
                    }
                }
                _ => return Err(unknown()),
            }
        }
        let RecordRange {
            from,
            to,
            since_ms,
            until_ms,
        } = parsed.range;
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(QueryError::Backwards("from", "to"));
        }
        if since_ms
            .zip(until_ms)
            .is_some_and(|(since, until)| since > until)
        {
            return Err(QueryError::Backwards("since", "until"));
        }
        Ok(parsed)
    }
}

fn number(name: &'static str, value: &str) -> Result<u64, QueryError> {
    // Sequences end below this, so that one more is a number still.
    let number = value.parse().ok().filter(|number| *number < u64::MAX);
    number.ok_or_else(|| QueryError::Number {
        name,
        value: value.to_owned(),
    })
}

fn time(name: &'static str, value: &str) -> Result<u64, QueryError> {
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        return number(name, value);
    }
    // A plus sign that was not encoded may arrive as a space.
    let text = value.replacen(' ', "+", usize::from(value.contains('T')));
    let moment = text.parse::<jiff::Timestamp>().ok();
    moment
        .and_then(|moment| u64::try_from(moment.as_millisecond()).ok())
        .ok_or_else(|| QueryError::Time {
            name,
            value: value.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, String> {
        Query::parse(Some(query), OF_ROWS).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_sequences_and_times() {
        let query = parse("from=3&to=7&limit=2&gaps=true").unwrap();
        assert_eq!((query.range.from, query.range.to), (Some(3), Some(7)));
        assert_eq!((query.limit, query.gaps), (Some(2), true));
        let at = |query: &str| parse(query).unwrap().range.since_ms;
        assert_eq!(at("since=1764079200000"), Some(1_764_079_200_000));
        assert_eq!(at("since=2025-11-25T14:00:00Z"), Some(1_764_079_200_000));
        assert_eq!(
            at("since=2025-11-25T15%3A00%3A00%2B01:00"),
            Some(1_764_079_200_000)
        );
        assert_eq!(
            at("since=2025-11-25T15:00:00+01:00"),
            Some(1_764_079_200_000)
        );
        assert_eq!(Query::parse(None, OF_ROWS), Ok(Query::default()));
    }

    #[test]
    fn says_what_is_wrong_with_a_query() {
        for (query, part) in [
            ("from=x", "is not a number"),
            ("to=18446744073709551615", "is not a number"),
            ("since=yesterday", "is no time"),
            ("gaps=maybe", "neither true nor false"),
            ("form=3", "is not known here: use from, to"),
            ("from=4&to=3", "from lies after to"),
            ("since=5&until=4", "since lies after until"),
        ] {
            let error = parse(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
        assert!(Query::parse(Some("to=3"), OF_LIVE).is_err());
    }
}
