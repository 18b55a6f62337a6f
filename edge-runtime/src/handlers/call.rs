//! One call into a guest: what the call and its answer share.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet_api::deployment::Limits;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;

use super::limits::{CpuMeter, Exceeded};
use super::trace::Trace;
use crate::keyvalue::Stage;

/// A response body as the guest writes it.
pub(super) type GuestBody = UnsyncBoxBody<Bytes, wasmtime_wasi_http::Error>;

/// What the guest answers: a response, or the error code that it gives up with.
pub(super) type Answer = Result<Response<GuestBody>, String>;

#[derive(Debug)]
pub(super) struct Call {
    /// The request's id, for logs.
    pub(super) id: String,
    /// The trace that it belongs to.
    pub(super) trace: Trace,
    pub(super) cpu: CpuMeter,
    cpu_limit: Duration,
    /// When the call has to be over.
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
    /// What the batch has changed of its handler's values, if this is a batch.
    pub(super) stage: Option<Arc<Stage>>,
    answer: Mutex<Option<Answer>>,
    answered: AtomicBool,
    /// The client's body was larger than allowed.
    too_large: AtomicBool,
    /// The whole response has been taken from the guest.
    body_ended: AtomicBool,
}

impl Call {
    /// A call that begins at `now`.
    pub(super) fn new(id: String, limits: &Limits, now: Instant) -> Self {
        let timeout = limits.timeout.duration();
        Self {
            id,
            trace: Trace::default(),
            cpu: CpuMeter::new(now),
            cpu_limit: limits.cpu.duration(),
            deadline: now + timeout,
            timeout,
            stage: None,
            answer: Mutex::new(None),
            answered: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            body_ended: AtomicBool::new(false),
        }
    }

    /// The same call as a part of `trace`.
    pub(super) fn within(self, trace: Trace) -> Self {
        Self { trace, ..self }
    }

    /// The same call with changes to values that are kept with its outputs.
    pub(super) fn staged(self, stage: Option<Arc<Stage>>) -> Self {
        Self { stage, ..self }
    }

    /// Asked at every epoch that passes while the guest computes.
    pub(super) fn check_cpu(&self) -> Result<(), Exceeded> {
        if self.cpu.used_within_poll() > self.cpu_limit {
            return Err(Exceeded::Cpu(self.cpu_limit));
        }
        Ok(())
    }

    /// Asked after every poll: many short ones add up too.
    pub(super) fn check_cpu_between_polls(&self) -> Result<(), Exceeded> {
        if self.cpu.used() > self.cpu_limit {
            return Err(Exceeded::Cpu(self.cpu_limit));
        }
        Ok(())
    }

    pub(super) fn set_answer(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.answered.store(true, Relaxed);
    }

    /// Whether the guest has answered, also if the answer has been taken.
    pub(super) fn answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn set_too_large(&self) {
        self.too_large.store(true, Relaxed);
    }

    pub(super) fn too_large(&self) -> bool {
        self.too_large.load(Relaxed)
    }

    pub(super) fn end_body(&self) {
        self.body_ended.store(true, Relaxed);
    }

    pub(super) fn body_ended(&self) -> bool {
        self.body_ended.load(Relaxed)
    }
}
