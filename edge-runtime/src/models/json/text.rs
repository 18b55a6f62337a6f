//! Walking through JSON of which most is a tensor's data: objects and lists are taken apart here, one member at a time,
//! data is read in place by its own reader, and everything else by serde.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Where and why a text is no JSON, or not of the form that is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line} column {column}")]
pub(crate) struct TextError {
    problem: String,
    line: usize,
    column: usize,
}

/// A place in a JSON text.
pub(crate) struct Text<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    pub(crate) fn new(json: &'a [u8]) -> Text<'a> {
        Text { json, at: 0 }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.json[self.at..]
    }

    /// Goes on behind `length` bytes that somebody else has read.
    pub(crate) fn skip(&mut self, length: usize) {
        self.at = (self.at + length).min(self.json.len());
    }

    /// The next byte that is no space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.at += space(self.rest());
        self.json.get(self.at).copied()
    }

    /// Calls `member` with the name of each member; it has to read the value.
    pub(crate) fn object<E: From<TextError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'{', "an object")?;
        let mut separator = b'{';
        while self.goes_on(&mut separator, b'}', "',' or '}' in an object")? {
            let name = match string(self.rest()) {
                Some((name, length)) => {
                    self.at += length;
                    name
                }
                None => return Err(self.error("expected a member's name in quotes").into()),
            };
            self.take(b':', "':' behind a member's name")?;
            self.peek();
            member(self, &name)?;
        }
        Ok(())
    }

    /// Calls `element` once for each element, which it has to read.
    pub(crate) fn list<E: From<TextError>>(
        &mut self,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'[', "a list")?;
        let (mut separator, mut index) = (b'[', 0);
        while self.goes_on(&mut separator, b']', "',' or ']' in a list")? {
            element(self, index)?;
            index += 1;
        }
        Ok(())
    }

    /// Whether another element follows; takes the comma before it, or the end.
    fn goes_on(&mut self, separator: &mut u8, end: u8, expected: &str) -> Result<bool, TextError> {
        let first = std::mem::replace(separator, b',') != b',';
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            Some(_) if first => Ok(true),
            Some(b',') => {
                self.at += 1;
                match self.peek() {
                    Some(byte) if byte == end => Err(self.error("nothing follows a comma")),
                    _ => Ok(true),
                }
            }
            _ => Err(self.error(format!("expected {expected}"))),
        }
    }

    fn take(&mut self, byte: u8, expected: &str) -> Result<(), TextError> {
        if self.peek() != Some(byte) {
            return Err(self.error(format!("expected {expected}")));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads one value of a type that serde knows.
    pub(crate) fn value<T: Deserialize<'a>>(&mut self) -> Result<T, TextError> {
        self.peek();
        let mut values = serde_json::Deserializer::from_slice(self.rest()).into_iter();
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value)
            }
            Some(Err(error)) => Err(self.error_of(&error)),
            None => Err(self.error("expected a value")),
        }
    }

    /// Passes a value of any kind.
    pub(crate) fn ignore(&mut self) -> Result<(), TextError> {
        self.value::<IgnoredAny>().map(drop)
    }

    /// Passes a value without looking whether it is right inside, and gives it.
    pub(crate) fn unread(&mut self) -> Result<&'a [u8], TextError> {
        self.peek();
        let rest = self.rest();
        let length = if rest.first() == Some(&b'[') {
            list_length(rest).ok_or_else(|| self.error("a list does not end"))?
        } else {
            let from = self.at;
            self.ignore()?;
            return Ok(&self.json[from..self.at]);
        };
        self.at += length;
        Ok(&rest[..length])
    }

    /// Nothing but space may follow.
    pub(crate) fn end(&mut self) -> Result<(), TextError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("more text follows the request's object")),
        }
    }

    /// What is wrong at this place.
    pub(crate) fn error(&self, problem: impl Into<String>) -> TextError {
        let mut problem = problem.into();
        if self.at >= self.json.len() {
            problem.push_str(", but the text ends");
        }
        let (line, column) = self.place();
        TextError {
            problem,
            line,
            column: column + 1,
        }
    }

    /// What serde says is wrong in a value that begins here, with its place in the whole text.
    fn error_of(&self, error: &serde_json::Error) -> TextError {
        let text = error.to_string();
        let tail = format!(" at line {} column {}", error.line(), error.column());
        let (line, column) = self.place();
        TextError {
            problem: text.strip_suffix(&tail).unwrap_or(&text).to_owned(),
            line: line + error.line().saturating_sub(1),
            column: if error.line() <= 1 {
                column + error.column()
            } else {
                error.column()
            },
        }
    }

    /// The line, and the bytes of it before this place.
    fn place(&self) -> (usize, usize) {
        let before = &self.json[..self.at.min(self.json.len())];
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let last = before.iter().rev().take_while(|byte| **byte != b'\n');
        (lines + 1, last.count())
    }
}

/// How much space `text` begins with.
#[inline]
pub(super) fn space(text: &[u8]) -> usize {
    text.iter()
        .position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
        .unwrap_or(text.len())
}

/// The string at the start of `text`, and its length with quotes. None if it is not a whole string of valid Unicode.
pub(super) fn string(text: &[u8]) -> Option<(Cow<'_, str>, usize)> {
    let length = string_length(text)?;
    let inside = &text[1..length - 1];
    if inside.iter().any(|byte| *byte == b'\\' || *byte < 0x20) {
        let string: String = serde_json::from_slice(&text[..length]).ok()?;
        return Some((string.into(), length));
    }
    Some((std::str::from_utf8(inside).ok()?.into(), length))
}

/// The length of the string at the start of `text`, quotes included.
pub(super) fn string_length(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The length of the list at the start of `text`, by its brackets alone.
fn list_length(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match text.get(at)? {
            b'[' => depth += 1,
            b']' if depth == 1 => return Some(at + 1),
            b']' => depth -= 1,
            b'"' => at += string_length(&text[at..])? - 1,
            _ => (),
        }
        at += 1;
    }
}
