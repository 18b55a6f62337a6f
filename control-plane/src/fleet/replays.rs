//! Replays: what an operator asks for becomes a list for the node, what the node says is kept.

mod plan;

use fleet_api::ids::{Name, NodeId};
use fleet_api::replay::{
    MOST_REPLAYS, ReplayReport, ReplayRequest, ReplaySpec, ReplayState, ReplayStatus, Replayed,
    Replays,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::store::{from_json, within};
use super::{EPOCH, FleetHandle, StoreError, signed, to_json, unsigned};
use crate::clock::now_ms;

pub(crate) use plan::PlanError;

/// How long a node has for a replay before it is given up.
const LIFE_MS: u64 = 3_600_000;
/// How long results are kept.
const KEPT_MS: u64 = 30 * 86_400_000;

/// Why a replay is not begun or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// No such node.
    #[error("there is no node {0}: `edgectl nodes` lists them")]
    UnknownNode(NodeId),
    /// No such replay.
    #[error("node {0} has no replay {1}: `edgectl replay {0} --list` lists them")]
    Unknown(NodeId, String),
    /// It has enough to do.
    #[error(
        "node {0} has {MOST_REPLAYS} replays to do: wait until one has ended, or cancel one with `edgectl replay {0} --cancel ID`"
    )]
    TooMany(NodeId),
    /// The request cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

struct ReplayRow {
    node: NodeId,
    created_ms: u64,
    expires_ms: u64,
    spec: ReplaySpec,
    report: ReplayReport,
}

impl FleetHandle {
    /// Asks a node for a replay.
    pub(crate) async fn begin_replay(
        &self,
        node: &NodeId,
        request: &ReplayRequest,
    ) -> Result<ReplayStatus, ReplayError> {
        let _turn = self.0.turn.lock().await;
        let mut change = self.0.store.change().await?;
        if !within::has_node(&mut change, node).await? {
            return Err(ReplayError::UnknownNode(node.clone()));
        }
        let mut known = within::desired(&mut change).await?;
        let desired = known.remove(node).and_then(|(_, document)| document);
        let catalogue = within::catalogue(&mut change).await?;
        let spec = plan::plan(node, desired.as_ref(), &catalogue, request, new_id())?;
        let now = now_ms();
        let open = "SELECT COUNT(*) AS open FROM replays WHERE node = ? AND ended = 0";
        let open: i64 = sqlx::query(open)
            .bind(node.as_str())
            .fetch_one(&mut *change)
            .await?
            .get("open");
        if unsigned(open) >= MOST_REPLAYS as u64 {
            return Err(ReplayError::TooMany(node.clone()));
        }
        sqlx::query("DELETE FROM replays WHERE ended = 1 AND created_ms < ?")
            .bind(signed(now.saturating_sub(KEPT_MS)))
            .execute(&mut *change)
            .await?;
        let row = ReplayRow {
            node: node.clone(),
            created_ms: now,
            expires_ms: now + LIFE_MS,
            report: ReplayReport {
                id: spec.id.clone(),
                state: ReplayState::Waiting,
                attempt: 0,
                reason: None,
                result: None,
            },
            spec,
        };
        sqlx::query(
            "INSERT INTO replays (id, node, created_ms, expires_ms, spec, report) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(row.spec.id.as_str())
        .bind(node.as_str())
        .bind(signed(row.created_ms))
        .bind(signed(row.expires_ms))
        .bind(to_json(&row.spec))
        .bind(to_json(&row.report))
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        self.0.changed.notify_one();
        tracing::info!(%node, replay = %row.spec.id, stream = %row.spec.stream, "asked for a replay");
        Ok(row.status())
    }

    /// The replays of a node, the newest first.
    pub(crate) async fn replays_of(&self, node: &NodeId) -> Result<Vec<ReplayStatus>, ReplayError> {
        if self.0.store.node(node).await?.is_none() {
            return Err(ReplayError::UnknownNode(node.clone()));
        }
        let rows = sqlx::query("SELECT * FROM replays WHERE node = ? ORDER BY created_ms DESC")
            .bind(node.as_str())
            .fetch_all(self.0.store.pool())
            .await?;
        let rows = rows.iter().map(|row| Ok(replay_row(row)?.status()));
        rows.collect()
    }

    /// One replay.
    pub(crate) async fn replay(
        &self,
        node: &NodeId,
        id: &str,
    ) -> Result<ReplayStatus, ReplayError> {
        let row = sqlx::query("SELECT * FROM replays WHERE node = ? AND id = ?")
            .bind(node.as_str())
            .bind(id)
            .fetch_optional(self.0.store.pool())
            .await?;
        let row = row.ok_or_else(|| ReplayError::Unknown(node.clone(), id.to_owned()))?;
        Ok(replay_row(&row)?.status())
    }

    /// Takes a replay back; one that has ended stays as it is.
    pub(crate) async fn cancel_replay(
        &self,
        node: &NodeId,
        id: &str,
    ) -> Result<ReplayStatus, ReplayError> {
        let cancel = |report: &mut ReplayReport| report.state = ReplayState::Cancelled;
        let found = self.change_replay(node, id, cancel).await?;
        if !found {
            return Err(ReplayError::Unknown(node.clone(), id.to_owned()));
        }
        self.0.changed.notify_one();
        self.replay(node, id).await
    }

    /// Keeps what a node says of its replays. What it says of another's, or of one that has
    /// ended, changes nothing.
    pub(super) async fn take_replayed(
        &self,
        node: &NodeId,
        replayed: &Replayed,
    ) -> Result<(), StoreError> {
        let mut ended = false;
        for report in &replayed.replays {
            let take = |known: &mut ReplayReport| known.clone_from(report);
            self.change_replay(node, report.id.as_str(), take).await?;
            ended |= report.state.is_final();
        }
        if ended {
            self.0.changed.notify_one();
        }
        Ok(())
    }

    /// Gives up what no node has done in time.
    pub(super) async fn expire_replays(&self) -> Result<(), StoreError> {
        let rows = sqlx::query("SELECT * FROM replays WHERE ended = 0 AND expires_ms < ?")
            .bind(signed(now_ms()))
            .fetch_all(self.0.store.pool())
            .await?;
        for row in &rows {
            let row = replay_row(row)?;
            let give_up = |report: &mut ReplayReport| {
                report.state = ReplayState::Failed;
                report.reason = Some("the node has not done it within an hour".to_owned());
            };
            self.change_replay(&row.node, row.spec.id.as_str(), give_up)
                .await?;
        }
        Ok(())
    }

    /// The list for every node that ever had a replay; empty once all have ended.
    pub(super) async fn all_replays(&self) -> Result<Vec<Replays>, StoreError> {
        let nodes = sqlx::query("SELECT DISTINCT node FROM replays ORDER BY node")
            .fetch_all(self.0.store.pool())
            .await?;
        let mut all = Vec::with_capacity(nodes.len());
        for row in &nodes {
            all.push(Replays {
                v: 1,
                node: NodeId::new(row.get::<String, _>("node"))?,
                epoch: EPOCH,
                replays: Vec::new(),
            });
        }
        let rows = sqlx::query("SELECT * FROM replays WHERE ended = 0 ORDER BY created_ms, id")
            .fetch_all(self.0.store.pool())
            .await?;
        for row in &rows {
            let row = replay_row(row)?;
            if let Some(list) = all.iter_mut().find(|list| list.node == row.node) {
                list.replays.push(row.spec);
            }
        }
        Ok(all)
    }

    /// Changes the report of a replay that has not ended; false if there is no such replay.
    async fn change_replay(
        &self,
        node: &NodeId,
        id: &str,
        change: impl FnOnce(&mut ReplayReport),
    ) -> Result<bool, StoreError> {
        let mut transaction = self.0.store.change().await?;
        let row = sqlx::query("SELECT * FROM replays WHERE node = ? AND id = ?")
            .bind(node.as_str())
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(false) };
        let mut report = replay_row(&row)?.report;
        if report.state.is_final() {
            return Ok(true);
        }
        change(&mut report);
        sqlx::query("UPDATE replays SET report = ?, ended = ? WHERE id = ?")
            .bind(to_json(&report))
            .bind(report.state.is_final())
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

impl ReplayRow {
    fn status(self) -> ReplayStatus {
        ReplayStatus {
            node: self.node,
            stream: self.spec.stream,
            candidate: plan::reference(&self.spec.candidate),
            baseline: self.spec.baseline.as_ref().map(plan::reference),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            report: self.report,
        }
    }
}

fn replay_row(row: &SqliteRow) -> Result<ReplayRow, StoreError> {
    Ok(ReplayRow {
        node: NodeId::new(row.get::<String, _>("node"))?,
        created_ms: unsigned(row.get("created_ms")),
        expires_ms: unsigned(row.get("expires_ms")),
        spec: from_json("a replay", row.get("spec"))?,
        report: from_json("a replay's report", row.get("report"))?,
    })
}

fn new_id() -> Name {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).expect("the system's random source is there");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Name::new(format!("r{hex}")).expect("a letter and hexadecimal digits are a name")
}
