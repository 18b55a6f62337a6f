//! Streams and processors that would feed themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::artifact::Reference;
use crate::deployment::Allow;
use crate::ids::{Name, StreamName};

/// A circle: each stream's processor may add records to the next, the last one's to the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circle(Vec<(StreamName, Name)>);

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stream, processor) in &self.0 {
            write!(f, "{stream} → ({processor}) → ")?;
        }
        f.write_str(self.0.first().map_or("", |(first, _)| first.as_str()))
    }
}

impl Circle {
    /// Whether `processor` is part of it.
    pub fn has(&self, processor: &Name) -> bool {
        self.0.iter().any(|(_, own)| own == processor)
    }

    /// The first circle among `streams` and their processors, if there is one. A processor may
    /// add to what its handler is allowed, and to the stream of its dead letters.
    pub fn among<'a>(
        streams: impl IntoIterator<Item = (&'a StreamName, &'a Reference)>,
        handlers: impl IntoIterator<Item = (&'a Name, &'a Allow)>,
    ) -> Option<Self> {
        let allowed: BTreeMap<&Name, &Allow> = handlers.into_iter().collect();
        let mut feeds: BTreeMap<StreamName, (Name, BTreeSet<StreamName>)> = BTreeMap::new();
        for (stream, processor) in streams {
            let allow = allowed.get(&processor.name);
            let mut to = allow.map_or_else(BTreeSet::new, |allow| allow.streams.clone());
            to.extend(stream.dead_letters());
            feeds.insert(stream.clone(), (processor.name.clone(), to));
        }
        let mut done = BTreeSet::new();
        feeds
            .keys()
            .find_map(|stream| walk(stream, &feeds, &mut Vec::new(), &mut done))
    }
}

fn walk<'a>(
    stream: &'a StreamName,
    feeds: &'a BTreeMap<StreamName, (Name, BTreeSet<StreamName>)>,
    way: &mut Vec<(&'a StreamName, &'a Name)>,
    done: &mut BTreeSet<&'a StreamName>,
) -> Option<Circle> {
    if let Some(start) = way.iter().position(|(known, _)| *known == stream) {
        let circle = way[start..].iter();
        let circle = circle.map(|(stream, processor)| ((*stream).clone(), (*processor).clone()));
        return Some(Circle(circle.collect()));
    }
    if !done.insert(stream) {
        return None;
    }
    let (processor, to) = feeds.get(stream)?;
    way.push((stream, processor));
    let found = to.iter().find_map(|next| walk(next, feeds, way, done));
    way.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams as `stream=processor`, processors as `processor>stream,stream`.
    fn circle(streams: &str, processors: &str) -> Option<String> {
        let streams: Vec<(StreamName, Reference)> = streams
            .split_whitespace()
            .map(|pair| pair.split_once('=').expect("a pair"))
            .map(|(stream, processor)| {
                let reference = format!("{processor}:1").parse().expect("valid");
                (stream.parse().expect("valid"), reference)
            })
            .collect();
        let processors: Vec<(Name, Allow)> = processors
            .split_whitespace()
            .map(|pair| pair.split_once('>').expect("a pair"))
            .map(|(name, to)| {
                let streams = to.split(',').map(|to| to.parse().expect("valid"));
                let streams = streams.collect();
                let allow = Allow {
                    streams,
                    ..Allow::default()
                };
                (name.parse().expect("valid"), allow)
            })
            .collect();
        let streams = streams.iter().map(|(a, b)| (a, b));
        let found = Circle::among(streams, processors.iter().map(|(a, b)| (a, b)));
        found.map(|circle| circle.to_string())
    }

    #[test]
    fn a_chain_is_no_circle_also_if_its_ends_meet() {
        assert_eq!(circle("a=p b=q c=r", "p>b q>c r>d"), None);
        assert_eq!(circle("a=p b=q c=r", "p>b,c q>d r>d"), None);
        assert_eq!(circle("a=p", "p>b"), None);
        assert_eq!(circle("a=p", "q>a"), None);
    }

    #[test]
    fn names_the_circle_and_nothing_that_only_leads_to_it() {
        let found = circle("in=p b=q c=r", "p>b q>c r>b,out");
        assert_eq!(found.expect("a circle"), "b → (q) → c → (r) → b");
        let own = circle("a=p", "p>b,a");
        assert_eq!(own.expect("a circle"), "a → (p) → a");
    }

    #[test]
    fn dead_letters_that_are_put_back_by_a_processor_are_a_circle() {
        let found = circle("raw=p raw.dead=retry", "p>out retry>raw");
        assert_eq!(
            found.expect("a circle"),
            "raw → (p) → raw.dead → (retry) → raw"
        );
    }
}
