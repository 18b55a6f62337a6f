use fleet_api::deployment::OnFull;
use fleet_api::frame::{GapReason, Record};

use super::{Group, Refusal};
use crate::streams::AppendError;
use crate::streams::budget::{Claim, gives_room, guarded_share};
use crate::streams::state::StreamState;

impl Group<'_> {
    /// Makes room within what all streams together may hold: released records go first,
    /// then the stream that has to give.
    pub(super) fn make_room_in_total(
        &mut self,
        stream: &str,
        records: &[Record],
    ) -> Result<(), Refusal> {
        let wanted = self.cost(stream, records) + self.plan.promised;
        let mut given_all: Vec<String> = Vec::new();
        loop {
            let used: u64 = self.states.values().map(StreamState::all_bytes).sum();
            if used + wanted <= self.limit {
                return Ok(());
            }
            if let Some(largest) = self.most_retained() {
                self.drop_retained(&largest, None)?;
                continue;
            }
            let share = guarded_share(self.limit, self.states.len().max(self.specs.len()));
            let claims = self.claims(&given_all);
            let Some(giver) = gives_room(&claims, stream, wanted, share) else {
                break;
            };
            let giver = giver.to_owned();
            if !self.evict(&giver, GapReason::Quota, |_| true)? {
                given_all.push(giver);
            }
        }
        if given_all
            .iter()
            .any(|name| self.plan.packers.contains_key(name))
        {
            // What has to make room is part of this very group.
            return Err(Refusal::NeedsCommit);
        }
        let stream = stream.to_owned();
        let limit = self.limit;
        Err(Refusal::Append(AppendError::BufferFull { stream, limit }))
    }

    fn most_retained(&self) -> Option<String> {
        self.states
            .iter()
            .filter(|(_, state)| state.low < state.released)
            .max_by_key(|(_, state)| state.retained_bytes)
            .map(|(name, _)| name.clone())
    }

    /// What the streams hold; those that have `given_all` give no more.
    fn claims(&self, given_all: &[String]) -> Vec<Claim<'_>> {
        self.states
            .iter()
            .map(|(name, state)| {
                let spec = self.specs.get(name);
                // A removed stream only empties itself, so it gives first.
                let drops = spec.is_none_or(|spec| spec.on_full == OnFull::DropOldest);
                Claim {
                    name,
                    priority: spec.map_or(0, |spec| spec.priority),
                    bytes: state.bytes,
                    gives: drops && !given_all.contains(name),
                }
            })
            .chain(
                self.specs
                    .iter()
                    .filter(|(name, _)| !self.states.contains_key(*name))
                    .map(|(name, spec)| Claim {
                        name,
                        priority: spec.priority,
                        bytes: 0,
                        gives: false,
                    }),
            )
            .collect()
    }
}
