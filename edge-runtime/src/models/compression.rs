//! Bodies with a content coding: gzip and deflate, both ways. What a body inflates to is limited like a body itself.

use std::io::{self, Read, Write};

use ::http::HeaderMap;
use ::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};

/// Answers shorter than this gain less than their coding costs.
const WORTHWHILE_BYTES: usize = 1024;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
}

/// Why a body cannot be inflated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodingError {
    /// A coding that is not known, or more than one.
    #[error("Content-Encoding {0:?} is not supported; send gzip, deflate, or the body as it is")]
    Unsupported(String),
    /// More than may come.
    #[error("the request body inflates to more than {limit} bytes, the most that is taken")]
    TooLarge { limit: usize },
    /// Not what the coding says.
    #[error("the request body is no complete {} data: {problem}", coding.name())]
    Broken { coding: Coding, problem: io::Error },
}

impl Coding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    fn from_name(name: &str) -> Option<Coding> {
        let is = |known: &&str| name.eq_ignore_ascii_case(known);
        if ["gzip", "x-gzip"].iter().any(is) {
            Some(Coding::Gzip)
        } else {
            is(&"deflate").then_some(Coding::Deflate)
        }
    }

    /// The coding of a request's body; none if it is as it is.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Coding>, CodingError> {
        let mut coding = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let unsupported = || {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                CodingError::Unsupported(value)
            };
            for name in value.to_str().map_err(|_| unsupported())?.split(',') {
                let name = name.trim();
                if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                    continue;
                }
                let known = Coding::from_name(name).ok_or_else(unsupported)?;
                if coding.replace(known).is_some() {
                    return Err(unsupported());
                }
            }
        }
        Ok(coding)
    }

    /// The coding that a client likes best for an answer; none if it likes none better than the body as it is.
    pub(crate) fn for_answer(headers: &HeaderMap) -> Option<Coding> {
        let values = headers.get_all(ACCEPT_ENCODING).iter();
        let items = values.filter_map(|value| value.to_str().ok());
        let weighed: Vec<(&str, f32)> = items
            .flat_map(|value| value.split(','))
            .filter_map(weighed)
            .collect();
        let weight = |names: &[&str]| {
            let named = |wanted: &str| {
                let found = weighed
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, weight)| *weight)
            };
            names.iter().find_map(|name| named(name))
        };
        let gzip = weight(&["gzip", "x-gzip", "*"]).unwrap_or(0.0);
        let deflate = weight(&["deflate", "*"]).unwrap_or(0.0);
        let identity = weight(&["identity"]).unwrap_or(0.0);
        let (best, weight) = if deflate > gzip {
            (Coding::Deflate, deflate)
        } else {
            (Coding::Gzip, gzip)
        };
        (weight > 0.0 && weight >= identity).then_some(best)
    }

    /// Undoes the coding, up to `limit` bytes.
    pub(crate) fn inflate(self, body: &[u8], limit: usize) -> Result<Bytes, CodingError> {
        let broken = |problem| CodingError::Broken {
            coding: self,
            problem,
        };
        let mut out = Vec::with_capacity(body.len().saturating_mul(3).min(limit));
        let mut rest = body;
        // A gzip body may have several members, one behind the other.
        loop {
            rest = match self {
                Coding::Gzip => gunzip(rest, limit, &mut out),
                Coding::Deflate => undeflate(rest, limit, &mut out),
            }
            .map_err(broken)?;
            if out.len() > limit {
                return Err(CodingError::TooLarge { limit });
            }
            if rest.is_empty() {
                return Ok(out.into());
            }
            if self == Coding::Deflate {
                return Err(broken(io::Error::other("more bytes follow its end")));
            }
        }
    }

    /// Applies the coding; none if that would not make the body smaller.
    pub(crate) fn deflate(self, body: &[u8]) -> Option<Bytes> {
        if body.len() < WORTHWHILE_BYTES {
            return None;
        }
        let out = Vec::with_capacity(body.len() / 2);
        // Tensors of floats gain little from more effort.
        let level = Compression::fast();
        let written = match self {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(out, level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(out, level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
        };
        let written = written.expect("writing to memory does not fail");
        (written.len() < body.len()).then(|| written.into())
    }
}

/// Appends one member, up to a byte more than `limit`, and gives what follows it.
fn gunzip<'a>(body: &'a [u8], limit: usize, out: &mut Vec<u8>) -> io::Result<&'a [u8]> {
    let room = (limit - out.len()) as u64 + 1;
    let mut decoder = GzDecoder::new(body);
    decoder.by_ref().take(room).read_to_end(out)?;
    Ok(decoder.into_inner())
}

/// Appends deflated data, with zlib's head or, as some clients understand it, without.
fn undeflate<'a>(body: &'a [u8], limit: usize, out: &mut Vec<u8>) -> io::Result<&'a [u8]> {
    let mut decoder = Decompress::new(is_zlib(body));
    loop {
        let more = out.len().max(4096).min(limit + 1 - out.len());
        out.reserve(more);
        let rest = &body[usize::try_from(decoder.total_in()).unwrap_or(usize::MAX)..];
        let status = decoder.decompress_vec(rest, out, FlushDecompress::None)?;
        let left = &body[usize::try_from(decoder.total_in()).unwrap_or(usize::MAX)..];
        if status == Status::StreamEnd || out.len() > limit {
            return Ok(left);
        }
        // There was room for more, and nothing to make it of.
        if left.is_empty() && out.len() < out.capacity() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether deflated data has zlib's two bytes before it, as HTTP wants it.
fn is_zlib(body: &[u8]) -> bool {
    let head = body.first_chunk::<2>().copied().map(u16::from_be_bytes);
    head.is_some_and(|head| head >> 8 & 0x0f == 8 && head.is_multiple_of(31))
}

/// One item of an Accept-Encoding, with its weight.
fn weighed(item: &str) -> Option<(&str, f32)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse().ok())?;
    Some((name, weight))
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    fn sent_as(value: &'static str) -> Result<Option<Coding>, CodingError> {
        let value = HeaderValue::from_static(value);
        Coding::of_request(&HeaderMap::from_iter([(CONTENT_ENCODING, value)]))
    }

    #[test]
    fn a_client_gets_the_coding_that_it_likes_best() {
        for (value, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("br, deflate", Some(Coding::Deflate)),
            ("gzip;q=0.5, deflate;q=0.7", Some(Coding::Deflate)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0", None),
            ("gzip;q=0, *", Some(Coding::Deflate)),
            ("GZIP ; q=0.1", Some(Coding::Gzip)),
            ("*", Some(Coding::Gzip)),
            ("identity", None),
            ("br", None),
            ("", None),
            ("gzip;q=x", None),
        ] {
            assert_eq!(Coding::for_answer(&accepting(value)), coding, "{value:?}");
        }
        assert_eq!(Coding::for_answer(&HeaderMap::new()), None);
    }

    #[test]
    fn one_known_coding_may_be_on_a_request() {
        assert_eq!(sent_as("identity").unwrap(), None);
        assert_eq!(sent_as("GZip").unwrap(), Some(Coding::Gzip));
        assert_eq!(sent_as("identity, deflate").unwrap(), Some(Coding::Deflate));
        for value in ["br", "zstd", "gzip, gzip"] {
            let error = sent_as(value).unwrap_err().to_string();
            assert!(error.contains("send gzip, deflate, or"), "{error}");
        }
    }

    #[test]
    fn a_bomb_is_left_as_soon_as_it_is_too_large() {
        let bomb = Coding::Gzip.deflate(&vec![0; 10 << 20]).unwrap();
        assert!(bomb.len() < 64 << 10);
        let error = Coding::Gzip.inflate(&bomb, 1 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the request body inflates to more than 1048576 bytes, the most that is taken"
        );
        let twice = [&bomb[..], &bomb[..]].concat();
        assert!(Coding::Gzip.inflate(&twice, 15 << 20).is_err());
        assert_eq!(
            Coding::Gzip.inflate(&twice, 20 << 20).unwrap().len(),
            20 << 20
        );
    }

    #[test]
    fn deflate_is_understood_with_and_without_its_head() {
        let text = b"one and two and one and two";
        let bare = |bytes: &[u8]| {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(
            Coding::Deflate.inflate(&bare(text), 100).unwrap(),
            &text[..]
        );
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        let whole = encoder.finish().unwrap();
        assert_eq!(Coding::Deflate.inflate(&whole, 100).unwrap(), &text[..]);
    }

    #[test]
    fn what_is_cut_off_or_goes_on_is_no_data() {
        let long: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let whole = coding.deflate(&long).unwrap();
            assert_eq!(coding.inflate(&whole, long.len()).unwrap(), long);
            for cut in [1, 5, whole.len() / 2, whole.len() - 1] {
                assert!(coding.inflate(&whole[..cut], 1 << 20).is_err(), "{cut}");
            }
            let more = [&whole[..], b"x"].concat();
            assert!(coding.inflate(&more, 1 << 20).is_err());
        }
    }

    #[test]
    fn small_answers_stay_as_they_are() {
        assert_eq!(Coding::Gzip.deflate(&[0; 1000]), None);
        assert!(Coding::Gzip.deflate(&[0; 5000]).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_inflate_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                if let Ok(out) = coding.inflate(&body, 100) {
                    prop_assert!(out.len() <= 100);
                }
            }
        }

        #[test]
        fn bodies_survive_a_round_trip(body in proptest::collection::vec(0..4_u8, 1024..3000)) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                let coded = coding.deflate(&body).unwrap();
                prop_assert_eq!(coding.inflate(&coded, body.len()).unwrap(), body.clone());
            }
        }
    }
}
