//! What nodes tell, as far back as people look.

use fleet_api::event::Event;
use fleet_api::ids::NodeId;
use fleet_api::rest::NodeEvent;
use sqlx::Row as _;

use super::{FleetHandle, Store, StoreError, signed, to_json, unsigned};

/// Events that are kept here; older ones are in the archive.
const KEPT: i64 = 100_000;

impl Store {
    /// Keeps what a node tells under the sequences it was sent with; what is known is skipped.
    pub(super) async fn keep_events(
        &self,
        node: &NodeId,
        epoch: u64,
        events: &[(u64, Event)],
    ) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut change = self.change().await?;
        for (seq, event) in events {
            sqlx::query(
                "INSERT INTO events (node, epoch, seq, event) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(node.as_str())
            .bind(signed(epoch))
            .bind(signed(*seq))
            .bind(to_json(event))
            .execute(&mut *change)
            .await?;
        }
        sqlx::query("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?")
            .bind(KEPT)
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(())
    }
}

impl FleetHandle {
    /// The events after the one with the id `after`, or the newest, at most `limit`, from old to
    /// new; of one node or of all.
    pub(crate) async fn events(
        &self,
        node: Option<&NodeId>,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<NodeEvent>, StoreError> {
        let order = if after.is_some() { "ASC" } else { "DESC" };
        let query = format!(
            "SELECT id, node, event FROM events WHERE id > ? AND (? IS NULL OR node = ?) ORDER BY id {order} LIMIT ?"
        );
        let node = node.map(NodeId::as_str);
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(signed(after.unwrap_or(0)))
            .bind(node)
            .bind(node)
            .bind(i64::from(limit))
            .fetch_all(self.0.store.pool())
            .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            let event: &str = row.try_get("event")?;
            events.push(NodeEvent {
                id: unsigned(row.try_get("id")?),
                node: NodeId::new(row.try_get::<&str, _>("node")?)?,
                event: serde_json::from_str(event).map_err(|source| StoreError::Document {
                    what: "an event",
                    source,
                })?,
            });
        }
        events.sort_by_key(|event| event.id);
        Ok(events)
    }
}
