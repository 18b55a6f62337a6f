use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fleet_api::deployment::Ack;
use tokio::time::Instant;

use crate::streams::{OutFrame, Outlook};

/// Bytes that may be sent beyond the receiver's watermark, per stream.
const AHEAD_BYTES: usize = 16 << 20;
/// Every so many turns the stream that waited longest goes first.
const FAIR_TURN: u64 = 8;
/// A stream that the broker refuses is tried again after this, doubling.
const BLOCK_MIN: Duration = Duration::from_secs(1);
const BLOCK_MAX: Duration = Duration::from_secs(60);
/// The pause before frames go out again doubles up to this many times.
const STALL_DOUBLINGS: u32 = 4;

/// Which frame goes next, and what the acknowledgements mean. No I/O, no clock.
pub(super) struct Lanes {
    lanes: BTreeMap<String, Lane>,
    turn: u64,
    stall: Duration,
}

struct Lane {
    priority: u8,
    ack: Ack,
    next: u64,
    /// Everything at or below is acknowledged for good.
    acked: u64,
    /// The next sequence to send.
    sent: u64,
    /// The highest sequence ever sent on this connection.
    highest: u64,
    /// Frames read from the buffer and not sent yet.
    ready: VecDeque<OutFrame>,
    /// Sent and not below the watermark.
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    served: u64,
    /// When the watermark last moved, or frames began to wait for it.
    progress: Instant,
    stalls: u32,
    blocked: Option<Instant>,
    blocks: u32,
}

struct Ahead {
    last: u64,
    bytes: usize,
    /// Whether the broker has it.
    taken: bool,
}

/// What to do for the next frame of a stream.
pub(super) enum Next {
    /// Read frames from the buffer.
    Fetch { stream: String, from: u64 },
    /// Send this one.
    Send {
        stream: String,
        frame: OutFrame,
        again: bool,
    },
}

impl Lanes {
    pub(super) fn new(stall: Duration) -> Self {
        Self {
            lanes: BTreeMap::new(),
            turn: 0,
            stall,
        }
    }

    /// Takes over what the streams say; new ones start at their watermark.
    pub(super) fn update(&mut self, outlook: &[Outlook], now: Instant) {
        for stream in outlook {
            let start = stream.low.max(stream.acked + 1);
            let name = stream.name.as_str();
            let lane = self.lanes.entry(name.to_owned()).or_insert_with(|| Lane {
                priority: 0,
                ack: Ack::Consumer,
                next: 1,
                acked: stream.acked,
                sent: start,
                highest: 0,
                ready: VecDeque::new(),
                ahead: VecDeque::new(),
                ahead_bytes: 0,
                served: 0,
                progress: now,
                stalls: 0,
                blocked: None,
                blocks: 0,
            });
            lane.priority = stream.priority;
            lane.ack = stream.ack;
            lane.next = stream.next;
            lane.acknowledge(stream.acked, now);
        }
    }

    /// The next frame to send or to read, if any stream may send now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next> {
        let fair = self.turn % FAIR_TURN == FAIR_TURN - 1;
        let (stream, lane) = self
            .lanes
            .iter_mut()
            .filter(|(_, lane)| lane.may_send(now))
            .min_by_key(|(_, lane)| {
                let urgency = if fair { 0 } else { 9 - lane.priority.min(9) };
                (urgency, lane.served)
            })?;
        let Some(frame) = lane.ready.pop_front() else {
            return Some(Next::Fetch {
                stream: stream.clone(),
                from: lane.sent,
            });
        };
        self.turn += 1;
        lane.served = self.turn;
        let again = frame.last <= lane.highest;
        lane.sent = frame.last + 1;
        lane.highest = lane.highest.max(frame.last);
        if lane.ahead.is_empty() {
            lane.progress = now;
        }
        lane.ahead.push_back(Ahead {
            last: frame.last,
            bytes: frame.bytes.len(),
            taken: false,
        });
        lane.ahead_bytes += frame.bytes.len();
        Some(Next::Send {
            stream: stream.clone(),
            frame,
            again,
        })
    }

    /// Frames that were read on a [`Next::Fetch`].
    pub(super) fn fetched(&mut self, stream: &str, from: u64, frames: Vec<OutFrame>) {
        if let Some(lane) = self.lanes.get_mut(stream)
            && lane.sent == from
        {
            if frames.is_empty() {
                // Nothing there after all; the next update tells more.
                lane.next = from;
            }
            lane.ready = frames.into();
        }
    }

    /// The broker has taken the frame that ends at `last`. Returns up to where
    /// the stream can be freed by that alone.
    pub(super) fn taken(&mut self, stream: &str, last: u64, now: Instant) -> Option<u64> {
        let lane = self.lanes.get_mut(stream)?;
        lane.blocks = 0;
        if let Some(sent) = lane.ahead.iter_mut().find(|sent| sent.last == last) {
            sent.taken = true;
        }
        if lane.ack != Ack::Broker {
            return None;
        }
        let upto = lane.ahead.iter().take_while(|sent| sent.taken).last()?.last;
        lane.acknowledge(upto, now);
        Some(upto)
    }

    /// The broker refuses the stream: it waits, then starts again at its watermark.
    pub(super) fn refused(&mut self, stream: &str, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(stream)
            && lane.blocked.is_none_or(|until| until <= now)
        {
            let pause = BLOCK_MIN.saturating_mul(1 << lane.blocks.min(10));
            lane.blocked = Some(now + pause.min(BLOCK_MAX));
            lane.blocks += 1;
            lane.rewind();
        }
    }

    /// Makes what the receiver has not acknowledged for too long go again;
    /// returns the streams' names.
    pub(super) fn resend_stalled(&mut self, now: Instant) -> Vec<String> {
        let mut stalled = Vec::new();
        for (stream, lane) in &mut self.lanes {
            let patience = self.stall.saturating_mul(1 << lane.stalls);
            let waits = lane.ack == Ack::Consumer
                && lane.ahead.front().is_some_and(|sent| sent.taken)
                && now.duration_since(lane.progress) >= patience;
            if waits {
                lane.stalls = (lane.stalls + 1).min(STALL_DOUBLINGS);
                lane.progress = now;
                lane.rewind();
                stalled.push(stream.clone());
            }
        }
        stalled
    }
}

impl Lane {
    fn may_send(&self, now: Instant) -> bool {
        self.sent < self.next
            && self.ahead_bytes < AHEAD_BYTES
            && self.blocked.is_none_or(|until| until <= now)
    }

    fn acknowledge(&mut self, upto: u64, now: Instant) {
        if upto <= self.acked {
            return;
        }
        self.acked = upto;
        self.progress = now;
        self.stalls = 0;
        while let Some(sent) = self.ahead.front() {
            if sent.last > upto {
                break;
            }
            self.ahead_bytes -= sent.bytes;
            self.ahead.pop_front();
        }
        if self.sent <= upto {
            self.sent = upto + 1;
            self.ready.retain(|frame| frame.last > upto);
            let next = self.ready.front().map(|frame| frame.first);
            if next.is_some_and(|first| first > self.sent) {
                self.ready.clear();
            }
        }
    }

    fn rewind(&mut self) {
        self.sent = self.acked + 1;
        self.ready.clear();
        self.ahead.clear();
        self.ahead_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fleet_api::frame::{Body, Encoding, Frame, Record};
    use fleet_api::ids::StreamName;

    use super::*;

    fn outlook(name: &str, priority: u8, acked: u64, next: u64) -> Outlook {
        Outlook {
            name: StreamName::new(name).expect("valid"),
            priority,
            ack: Ack::Consumer,
            acked,
            low: acked + 1,
            next,
        }
    }

    /// A frame of ten records.
    fn frame(first: u64) -> OutFrame {
        let record = Record {
            time_ms: 0,
            encoding: Encoding::Bytes,
            value: Bytes::new(),
        };
        OutFrame {
            first,
            last: first + 9,
            bytes: Bytes::from_static(&[0; 100]),
            frame: Frame {
                epoch: 1,
                first,
                body: Body::Records(vec![record; 10]),
            },
        }
    }

    /// Sends all there is and returns the first sequences in order.
    fn drain(lanes: &mut Lanes, now: Instant) -> Vec<(String, u64, bool)> {
        let mut sent = Vec::new();
        while let Some(next) = lanes.next(now) {
            match next {
                Next::Fetch { stream, from } => {
                    let frames = vec![frame(from), frame(from + 10)];
                    lanes.fetched(&stream, from, frames);
                }
                Next::Send {
                    stream,
                    frame,
                    again,
                } => sent.push((stream, frame.first, again)),
            }
        }
        sent
    }

    fn firsts(sent: &[(String, u64, bool)], stream: &str) -> Vec<u64> {
        let of = sent.iter().filter(|(name, ..)| name == stream);
        of.map(|(_, first, _)| *first).collect()
    }

    #[test]
    fn starts_at_the_watermark_and_keeps_the_order() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Duration::from_secs(30));
        lanes.update(&[outlook("a", 4, 20, 61)], now);
        let sent = drain(&mut lanes, now);
        assert_eq!(firsts(&sent, "a"), [21, 31, 41, 51]);
        assert!(sent.iter().all(|(_, _, again)| !again));
    }

    #[test]
    fn a_watermark_that_does_not_move_makes_frames_go_again() {
        let now = Instant::now();
        let stall = Duration::from_secs(30);
        let mut lanes = Lanes::new(stall);
        lanes.update(&[outlook("a", 4, 0, 41)], now);
        drain(&mut lanes, now);
        for last in [10, 20, 30, 40] {
            assert_eq!(lanes.taken("a", last, now), None, "a PUBACK frees nothing");
        }
        lanes.update(&[outlook("a", 4, 20, 41)], now + stall / 2);
        assert!(lanes.resend_stalled(now + stall).is_empty());
        assert_eq!(lanes.resend_stalled(now + 2 * stall), ["a"]);
        let sent = drain(&mut lanes, now + 2 * stall);
        assert_eq!(firsts(&sent, "a"), [21, 31]);
        assert!(sent.iter().all(|(_, _, again)| *again));
        // Not before the broker has them, and with more patience each time.
        assert!(lanes.resend_stalled(now + 9 * stall).is_empty());
        lanes.taken("a", 30, now + 2 * stall);
        assert!(lanes.resend_stalled(now + 3 * stall).is_empty());
        assert_eq!(lanes.resend_stalled(now + 4 * stall), ["a"]);
    }

    #[test]
    fn the_brokers_ack_frees_only_a_contiguous_prefix() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Duration::from_secs(30));
        let mut broker = outlook("a", 4, 0, 41);
        broker.ack = Ack::Broker;
        lanes.update(&[broker], now);
        drain(&mut lanes, now);
        assert_eq!(lanes.taken("a", 20, now), None);
        assert_eq!(lanes.taken("a", 10, now), Some(20));
        assert_eq!(lanes.taken("a", 40, now), None);
        assert_eq!(lanes.taken("a", 30, now), Some(40));
    }

    #[test]
    fn a_refused_stream_waits_and_does_not_hold_up_others() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Duration::from_secs(30));
        lanes.update(&[outlook("a", 4, 0, 21), outlook("b", 4, 0, 21)], now);
        drain(&mut lanes, now);
        lanes.refused("a", now);
        lanes.refused("a", now);
        lanes.update(&[outlook("a", 4, 0, 41), outlook("b", 4, 0, 41)], now);
        let sent = drain(&mut lanes, now);
        assert!(firsts(&sent, "a").is_empty());
        assert_eq!(firsts(&sent, "b"), [21, 31]);
        let sent = drain(&mut lanes, now + BLOCK_MIN);
        assert_eq!(firsts(&sent, "a"), [1, 11, 21, 31]);
    }

    #[test]
    fn a_low_priority_is_slower_but_not_starved() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Duration::from_secs(30));
        let both = [outlook("high", 9, 0, 401), outlook("low", 0, 0, 401)];
        lanes.update(&both, now);
        let sent = drain(&mut lanes, now);
        let low = firsts(&sent[..40], "low").len();
        assert!((4..=6).contains(&low), "{low} of the first 40");
        assert_eq!(firsts(&sent, "low").len(), 40);
    }

    #[test]
    fn a_watermark_ahead_of_us_skips_what_the_receiver_has() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Duration::from_secs(30));
        lanes.update(&[outlook("a", 4, 0, 61)], now);
        let Some(Next::Fetch { from, .. }) = lanes.next(now) else {
            panic!("frames are wanted");
        };
        lanes.fetched("a", from, vec![frame(1), frame(11), frame(21)]);
        lanes.update(&[outlook("a", 4, 10, 61)], now);
        let sent = drain(&mut lanes, now);
        assert_eq!(firsts(&sent, "a"), [11, 21, 31, 41, 51]);
    }
}
