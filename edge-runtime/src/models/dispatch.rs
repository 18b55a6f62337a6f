//! Which request runs next. Only decisions: `scheduler.rs` does what comes out of here.
//!
//! Every loaded model has a lane with its free sessions and its waiting requests. A run takes a session of its lane and
//! one of the node's cores, which all lanes share:
//!
//! ```text
//! arrive -> waiting (by priority, then first come) -> next: lanes in turn, batch of the first that fits -> Start
//!                                                       ^                                                    |
//!                                                       +---------- finish: session and core are back -------+
//! ```
//!
//! No lane with something to run, a free session and a free core is ever left waiting, but for the window of a batch.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Priority;

/// A request as far as the decision needs to know it.
pub(crate) trait Queued {
    /// Rows that it adds to a batch.
    fn rows(&self) -> usize;
    /// Whether both can be one run.
    fn joins(&self, other: &Self) -> bool;
}

/// One loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LaneId(u64);

/// What a lane allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneRule {
    /// Most requests that wait.
    pub(crate) waiting: usize,
    pub(crate) batch: Option<BatchRule>,
}

/// How requests are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchRule {
    /// Most rows in a run.
    pub(crate) rows: usize,
    /// Longest wait for more of them.
    pub(crate) window: Duration,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    lane: LaneId,
    place: (Priority, u64),
}

/// A run to begin now.
pub(crate) struct Start<S, T> {
    pub(crate) lane: LaneId,
    pub(crate) session: S,
    /// At least one.
    pub(crate) members: Vec<T>,
}

/// The queue is as long as it may get; the request comes back.
pub(crate) struct Full<T>(pub(crate) T);

pub(crate) struct Dispatch<S, T> {
    cores: usize,
    lanes: HashMap<LaneId, Lane<S, T>>,
    /// Lanes with waiting requests, each once; the one that ran last is at the end.
    turn: VecDeque<LaneId>,
    next_id: u64,
}

struct Lane<S, T> {
    rule: LaneRule,
    free: Vec<S>,
    running: usize,
    waiting: BTreeMap<(Priority, u64), Waiting<T>>,
    rows: usize,
}

struct Waiting<T> {
    request: T,
    since: Instant,
}

impl<S, T: Queued> Lane<S, T> {
    fn ready(&self, now: Instant) -> bool {
        !self.free.is_empty() && !self.waiting.is_empty() && !self.waits_for_more(now)
    }

    fn waits_for_more(&self, now: Instant) -> bool {
        let Some(batch) = self.rule.batch else {
            return false;
        };
        let fresh = |waiting: &Waiting<T>| now < waiting.since + batch.window;
        self.rows < batch.rows && self.waiting.values().all(fresh)
    }

    fn insert(&mut self, place: (Priority, u64), request: T, now: Instant) {
        self.rows += request.rows();
        let since = now;
        self.waiting.insert(place, Waiting { request, since });
    }

    fn remove(&mut self, place: (Priority, u64)) -> Option<T> {
        let request = self.waiting.remove(&place)?.request;
        self.rows -= request.rows();
        Some(request)
    }

    /// The first request, and those behind it that fit into one run with it.
    fn take_batch(&mut self) -> Vec<T> {
        let Some((first, waiting)) = self.waiting.first_key_value() else {
            return Vec::new();
        };
        let mut places = vec![*first];
        if let Some(batch) = self.rule.batch {
            let mut rows = waiting.request.rows();
            for (place, other) in self.waiting.iter().skip(1) {
                let more = other.request.rows();
                if rows + more <= batch.rows && waiting.request.joins(&other.request) {
                    rows += more;
                    places.push(*place);
                }
            }
        }
        places
            .into_iter()
            .filter_map(|place| self.remove(place))
            .collect()
    }
}

impl<S, T: Queued> Dispatch<S, T> {
    /// `cores`: runs that may be under way at once.
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores,
            lanes: HashMap::new(),
            turn: VecDeque::new(),
            next_id: 0,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Opens a lane, without sessions at first.
    pub(crate) fn open(&mut self, rule: LaneRule) -> LaneId {
        let id = LaneId(self.id());
        let lane = Lane {
            rule,
            free: Vec::new(),
            running: 0,
            waiting: BTreeMap::new(),
            rows: 0,
        };
        self.lanes.insert(id, lane);
        id
    }

    /// Closes a lane on which nothing runs; its sessions and what waits come back.
    pub(crate) fn close(&mut self, lane: LaneId) -> (Vec<S>, Vec<T>) {
        self.turn.retain(|other| *other != lane);
        self.lanes
            .remove(&lane)
            .map_or_else(Default::default, |lane| {
                let waiting = lane.waiting.into_values();
                (lane.free, waiting.map(|waiting| waiting.request).collect())
            })
    }

    /// Adds sessions; [`Dispatch::next`] may have something to start.
    pub(crate) fn add_sessions(&mut self, lane: LaneId, sessions: Vec<S>) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.free.extend(sessions);
        }
    }

    /// Takes a lane's sessions, if none of them is at work and nothing waits for one.
    pub(crate) fn take_sessions(&mut self, lane: LaneId) -> Option<Vec<S>> {
        let lane = self.lanes.get_mut(&lane)?;
        (lane.running == 0 && lane.waiting.is_empty()).then(|| std::mem::take(&mut lane.free))
    }

    /// Takes all that waits on a lane.
    pub(crate) fn drain(&mut self, lane: LaneId) -> Vec<T> {
        self.turn.retain(|other| *other != lane);
        let Some(lane) = self.lanes.get_mut(&lane) else {
            return Vec::new();
        };
        lane.rows = 0;
        let waiting = std::mem::take(&mut lane.waiting).into_values();
        waiting.map(|waiting| waiting.request).collect()
    }

    /// A session and a core for a request of `rows` rows that may run at once, alone.
    pub(crate) fn seize(&mut self, lane: LaneId, rows: usize) -> Option<S> {
        let lane = self.lanes.get_mut(&lane)?;
        let may_wait = lane
            .rule
            .batch
            .is_some_and(|batch| batch.window > Duration::ZERO && rows < batch.rows);
        if self.cores == 0 || may_wait || !lane.waiting.is_empty() {
            return None;
        }
        let session = lane.free.pop()?;
        lane.running += 1;
        self.cores -= 1;
        Some(session)
    }

    /// A session without a core, for a run that is nobody's request; back with [`Dispatch::give_back`].
    pub(crate) fn borrow(&mut self, lane: LaneId) -> Option<S> {
        let lane = self.lanes.get_mut(&lane)?;
        let session = lane.free.pop()?;
        lane.running += 1;
        Some(session)
    }

    /// Takes a borrowed session back. [`Dispatch::next`] may have something to start.
    pub(crate) fn give_back(&mut self, lane: LaneId, session: S) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.running -= 1;
            lane.free.push(session);
        }
    }

    /// Queues a request. [`Dispatch::next`] may have something to start.
    pub(crate) fn arrive(
        &mut self,
        lane_id: LaneId,
        priority: Priority,
        request: T,
        now: Instant,
    ) -> Result<Ticket, Full<T>> {
        let place = (priority, self.id());
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return Err(Full(request));
        };
        // One that fills a batch for a free session does not wait.
        let starts = self.cores > 0 && !lane.free.is_empty();
        if lane.waiting.len() >= lane.rule.waiting.max(usize::from(starts)) {
            return Err(Full(request));
        }
        if lane.waiting.is_empty() {
            self.turn.push_back(lane_id);
        }
        lane.insert(place, request, now);
        Ok(Ticket {
            lane: lane_id,
            place,
        })
    }

    /// Takes a request out of the queue; none if it runs already or has run.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let lane = self.lanes.get_mut(&ticket.lane)?;
        let request = lane.remove(ticket.place)?;
        if lane.waiting.is_empty() {
            self.turn.retain(|other| *other != ticket.lane);
        }
        Some(request)
    }

    /// The run to begin now, if there is one.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Start<S, T>> {
        if self.cores == 0 {
            return None;
        }
        let ready = |id: &LaneId| self.lanes.get(id).is_some_and(|lane| lane.ready(now));
        let at = self.turn.iter().position(ready)?;
        let id = self.turn.remove(at)?;
        let lane = self.lanes.get_mut(&id)?;
        let session = lane.free.pop()?;
        let members = lane.take_batch();
        lane.running += 1;
        self.cores -= 1;
        if !lane.waiting.is_empty() {
            self.turn.push_back(id);
        }
        Some(Start {
            lane: id,
            session,
            members,
        })
    }

    /// A run is over. Its session comes back, unless a panic has lost it.
    pub(crate) fn finish(&mut self, lane: LaneId, session: Option<S>) {
        self.cores += 1;
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.running -= 1;
            lane.free.extend(session);
        }
    }

    /// Requests that wait on a lane.
    pub(crate) fn waiting(&self, lane: LaneId) -> usize {
        self.lanes.get(&lane).map_or(0, |lane| lane.waiting.len())
    }

    /// Runs under way on a lane.
    pub(crate) fn running(&self, lane: LaneId) -> usize {
        self.lanes.get(&lane).map_or(0, |lane| lane.running)
    }
}

#[cfg(test)]
mod tests;
