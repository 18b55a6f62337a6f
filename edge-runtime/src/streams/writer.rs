use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use fleet_api::event::EventKind;
use fleet_api::frame::{GapReason, Record};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::budget::Budget;
use super::group::{Group, Planned, Refusal};
use super::marks::{Keys, Known, Mark, position_note};
use super::notes::{self, Notes};
use super::open::oldest;
use super::state::{Cursors, Shared, States, StreamState};
use super::{AppendError, Appended};
use crate::buffer::{Bounds, BufferError, Durability, Space};
use crate::clock::unix_ms;

/// Commands that one commit takes at most.
const GROUP_COMMANDS: usize = 1_024;
/// Bytes of records that one commit takes at most.
const GROUP_BYTES: usize = 4 << 20;
/// How often age limits and bounds are looked after.
const TICK: Duration = Duration::from_secs(1);

/// A command's place in the queue, given back when it is dropped.
pub(crate) type Queued = OwnedSemaphorePermit;
type Reply<T> = oneshot::Sender<Result<T, AppendError>>;

/// What the writer is asked to do.
pub(super) enum Command {
    Append {
        stream: String,
        records: Vec<Record>,
        mark: Option<Mark>,
        reply: Reply<Appended>,
        queued: Queued,
    },
    Process {
        processor: String,
        stream: String,
        upto: u64,
        outputs: Vec<(String, Vec<Record>)>,
        notes: Notes,
        reply: Reply<()>,
        queued: Queued,
    },
    Notes {
        notes: Notes,
        reply: Reply<()>,
        queued: Option<Queued>,
    },
    Release {
        stream: String,
        epoch: u64,
        upto: u64,
        reply: Option<oneshot::Sender<()>>,
    },
    Repair {
        stream: String,
        seq: u64,
        reason: Option<GapReason>,
        reply: Reply<()>,
    },
    Configured,
    Close,
}

/// The thread that makes every change.
pub(super) struct Writer {
    shared: Arc<Shared>,
    states: States,
    cursors: Cursors,
    keys: Keys,
    space: Space,
    received: Receiver<Command>,
    waiting: VecDeque<Command>,
    /// Streams in which there may be more to free than one group does.
    to_free: BTreeSet<String>,
    ticked: Instant,
    tick_now: bool,
    bounds: Bounds,
    budget: Budget,
    closing: bool,
}

/// What is answered once the group is durable.
enum Answer {
    Appended(Reply<Appended>, Appended, Queued),
    Done(Reply<()>, Option<Queued>),
    Released(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        states: States,
        keys: Keys,
        space: Space,
        received: Receiver<Command>,
    ) -> Self {
        let cursors = shared.published().cursors.clone();
        let bounds = Bounds::default();
        let budget = Budget::new(shared.figures.disk_limit);
        Self {
            to_free: BTreeSet::new(),
            shared,
            states,
            cursors,
            keys,
            space,
            received,
            waiting: VecDeque::new(),
            ticked: Instant::now(),
            tick_now: false,
            bounds,
            budget,
            closing: false,
        }
    }

    /// Runs until it is closed or all handles are gone.
    pub(super) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.work()));
        if ended.is_err() {
            self.fail("the writer panicked".to_owned());
        }
        self.shared.notify();
    }

    fn work(&mut self) {
        while self.collect() {
            self.group();
            if std::mem::take(&mut self.tick_now) || self.ticked.elapsed() >= TICK {
                self.tick();
            }
        }
        self.save_bounds();
    }

    /// Waits for something to do; false when it is time to end.
    fn collect(&mut self) -> bool {
        if self.waiting.is_empty() && self.to_free.is_empty() {
            if self.closing {
                return false;
            }
            match self
                .received
                .recv_timeout(TICK.saturating_sub(self.ticked.elapsed()))
            {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while self.waiting.len() < GROUP_COMMANDS {
            let Ok(command) = self.received.try_recv() else {
                break;
            };
            self.take(command);
        }
        true
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Close => self.closing = true,
            // A processor may be gone, what it held back can be freed; a limit may be lower.
            Command::Configured => {
                self.to_free.extend(self.states.keys().cloned());
                self.tick_now = true;
            }
            command => self.waiting.push_back(command),
        }
    }

    /// Plans what waits, commits it, answers.
    fn group(&mut self) {
        // Asked before the specs are read: with those of no configuration, everything that was
        // released, and what no processor seems to want, would be freed.
        let may_free = self.shared.is_configured();
        let specs = self.shared.specs();
        self.budget
            .look(self.shared.store.disk_bytes(), live_bytes(&self.states));
        let mut group = Group::new(
            self.shared.store.as_ref(),
            self.shared.epoch,
            &specs,
            &mut self.states,
            &mut self.cursors,
            unix_ms(),
        );
        group.limit = self.budget.limit();
        group.checked = Some(&self.shared.checked);
        let mut answers = Vec::new();
        let mut short = None;
        let mut bytes = 0;
        let mut free = std::mem::take(&mut self.to_free);
        let failed = self.shared.failed.get();

        while let Some(command) = self.waiting.pop_front() {
            if bytes > GROUP_BYTES {
                self.waiting.push_front(command);
                break;
            }
            if let Some(reason) = failed {
                refuse(command, BufferError::Failed(reason.clone()).into());
                continue;
            }
            let takes_space = matches!(command, Command::Append { .. } | Command::Process { .. });
            if takes_space && *short.get_or_insert_with(|| self.space.is_short()) {
                let free = self.space.free_bytes();
                refuse(command, AppendError::NoSpace { free });
                continue;
            }
            match command {
                Command::Append {
                    stream,
                    records,
                    mark,
                    reply,
                    queued,
                } => match self.keys.look_up(&stream, mark.as_ref()) {
                    Known::Same(first_seq, last_seq) => {
                        let epoch = self.shared.epoch;
                        let appended = Appended {
                            epoch,
                            first_seq,
                            last_seq,
                        };
                        answers.push(Answer::Appended(reply, appended, queued));
                    }
                    Known::Other => drop(reply.send(Err(AppendError::KeyReused))),
                    Known::New => match group.append(&stream, &records) {
                        Ok(appended) => {
                            match mark {
                                None => {}
                                Some(Mark::Key { key, digest }) => {
                                    group.note(self.keys.remember(&stream, key, digest, appended));
                                }
                                Some(Mark::Position { source, position }) => {
                                    group.note(position_note(&source, position));
                                }
                            }
                            bytes += records.iter().map(Record::encoded_bytes).sum::<usize>();
                            answers.push(Answer::Appended(reply, appended, queued));
                        }
                        Err(Refusal::Append(error)) => drop(reply.send(Err(error))),
                        Err(Refusal::NeedsCommit) => {
                            self.waiting.push_front(Command::Append {
                                stream,
                                records,
                                mark,
                                reply,
                                queued,
                            });
                            break;
                        }
                    },
                },
                Command::Process {
                    processor,
                    stream,
                    upto,
                    outputs,
                    notes,
                    reply,
                    queued,
                } => match group.process(&processor, &stream, upto, &outputs) {
                    Ok(()) => {
                        bytes += notes::bytes(&notes);
                        group.note(notes);
                        free.insert(stream);
                        answers.push(Answer::Done(reply, Some(queued)));
                    }
                    Err(Refusal::Append(error)) => drop(reply.send(Err(error))),
                    Err(Refusal::NeedsCommit) => {
                        self.waiting.push_front(Command::Process {
                            processor,
                            stream,
                            upto,
                            outputs,
                            notes,
                            reply,
                            queued,
                        });
                        break;
                    }
                },
                Command::Notes {
                    notes,
                    reply,
                    queued,
                } => {
                    bytes += notes::bytes(&notes);
                    group.note(notes);
                    answers.push(Answer::Done(reply, queued));
                }
                Command::Release {
                    stream,
                    epoch,
                    upto,
                    reply,
                } => {
                    let current = epoch == self.shared.epoch;
                    if current && group.acknowledge(&stream, upto).is_err() {
                        self.waiting.push_front(Command::Release {
                            stream,
                            epoch,
                            upto,
                            reply,
                        });
                        break;
                    }
                    free.insert(stream);
                    answers.extend(reply.map(Answer::Released));
                }
                Command::Repair {
                    stream,
                    seq,
                    reason,
                    reply,
                } => match group.repair(&stream, seq, reason) {
                    Ok(()) => answers.push(Answer::Done(reply, None)),
                    Err(Refusal::Append(error)) => drop(reply.send(Err(error))),
                    Err(Refusal::NeedsCommit) => {
                        self.waiting.push_front(Command::Repair {
                            stream,
                            seq,
                            reason,
                            reply,
                        });
                        break;
                    }
                },
                Command::Configured | Command::Close => {}
            }
        }
        if failed.is_none() && may_free {
            for stream in free {
                match group.free(&stream) {
                    Ok(false) => {}
                    Ok(true) | Err(Refusal::NeedsCommit) => {
                        self.to_free.insert(stream);
                    }
                    Err(Refusal::Append(error)) => {
                        tracing::error!(stream, %error, "cannot free forwarded records");
                    }
                }
            }
        }

        let planned = group.finish();
        let durability = if planned.durable {
            Durability::Durable
        } else {
            Durability::Lazy
        };
        if let Err(error) = self.commit(&planned, durability) {
            answers.into_iter().for_each(|answer| answer.fail(&error));
            return;
        }
        if !planned.touched.is_empty() || planned.durable {
            self.publish(&planned.touched);
        }
        answers.into_iter().for_each(Answer::send);
        self.shared.notify();
    }

    /// Commits what was planned; a failure is final.
    fn commit(&self, planned: &Planned, durability: Durability) -> Result<(), BufferError> {
        if planned.changes.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        if let Err(error) = self.shared.store.commit(&planned.changes, durability) {
            tracing::error!(%error, "cannot write to the buffer");
            self.fail(error.to_string());
            return Err(error);
        }
        if planned.rewrites {
            self.shared.checked.forget();
        }
        if durability == Durability::Durable {
            self.shared.figures.committed(started.elapsed());
        }
        Ok(())
    }

    fn publish(&mut self, touched: &BTreeSet<String>) {
        for name in touched {
            let Some(state) = self.states.get_mut(name) else {
                continue;
            };
            let checked = Some(&self.shared.checked);
            match oldest(self.shared.store.as_ref(), checked, name, state) {
                Ok(oldest) => state.oldest = oldest,
                Err(error) => tracing::error!(stream = %name, %error, "cannot read the buffer"),
            }
        }
        let mut published = self.shared.published();
        for name in touched {
            if let Some(state) = self.states.get(name) {
                let before = published.states.get(name).map_or(0, |s| s.evicted);
                if state.evicted > before {
                    let text = format!(
                        "{} records are not there any more: evicted, expired or damaged",
                        state.evicted - before
                    );
                    self.shared.events.note(EventKind::Gap, Some(name), text);
                    self.shared.figures.add_gap();
                }
                published.states.insert(name.clone(), state.clone());
            }
        }
        published.cursors.clone_from(&self.cursors);
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        self.budget
            .adjust(self.shared.store.disk_bytes(), live_bytes(&self.states));
        self.shared.figures.limited(self.budget.limit());
        if self.shared.failed.get().is_none() && self.shared.is_configured() {
            self.expire();
        }
        self.save_bounds();
    }

    fn expire(&mut self) {
        let specs = self.shared.specs();
        let mut group = Group::new(
            self.shared.store.as_ref(),
            self.shared.epoch,
            &specs,
            &mut self.states,
            &mut self.cursors,
            unix_ms(),
        );
        match group.expire() {
            Ok(more) => self.to_free.extend(more),
            Err(error) => tracing::error!(?error, "cannot evict old records"),
        }
        let planned = group.finish();
        if planned.changes.is_empty() {
            return;
        }
        // What is only released frames is not worth a sync.
        let durability = if planned.durable {
            Durability::Durable
        } else {
            Durability::Lazy
        };
        if self.commit(&planned, durability).is_err() {
            return;
        }
        self.publish(&planned.touched);
        self.shared.notify();
    }

    fn save_bounds(&mut self) {
        let bounds = Bounds {
            epoch: self.shared.epoch,
            next: self
                .states
                .iter()
                .map(|(name, state)| (name.clone(), state.next))
                .collect(),
            acked: self
                .states
                .iter()
                .map(|(name, state)| (name.clone(), state.acked))
                .collect(),
        };
        if bounds == self.bounds || self.shared.failed.get().is_some() {
            return;
        }
        match bounds.save(&self.shared.dir) {
            Ok(()) => self.bounds = bounds,
            Err(error) => tracing::warn!(%error, "cannot note the streams' bounds"),
        }
    }

    fn fail(&self, reason: String) {
        let _ = self.shared.failed.set(reason);
        self.shared.notify();
    }
}

impl Answer {
    fn send(self) {
        // Whoever asked may be gone; the records are stored all the same.
        match self {
            Self::Appended(reply, appended, queued) => {
                drop(queued);
                let _ = reply.send(Ok(appended));
            }
            Self::Done(reply, queued) => {
                drop(queued);
                let _ = reply.send(Ok(()));
            }
            Self::Released(reply) => drop(reply.send(())),
        }
    }

    fn fail(self, error: &BufferError) {
        let error = AppendError::Buffer(error.clone());
        match self {
            Self::Appended(reply, ..) => drop(reply.send(Err(error))),
            Self::Done(reply, _) => drop(reply.send(Err(error))),
            Self::Released(reply) => drop(reply.send(())),
        }
    }
}

fn live_bytes(states: &States) -> u64 {
    states.values().map(StreamState::all_bytes).sum()
}

fn refuse(command: Command, error: AppendError) {
    match command {
        Command::Append { reply, .. } => drop(reply.send(Err(error))),
        Command::Process { reply, .. }
        | Command::Notes { reply, .. }
        | Command::Repair { reply, .. } => {
            drop(reply.send(Err(error)));
        }
        Command::Release { reply, .. } => {
            if let Some(reply) = reply {
                let _ = reply.send(());
            }
        }
        Command::Configured | Command::Close => {}
    }
}
