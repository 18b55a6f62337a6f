//! What outlives the process, in SQLite. A commit is on disk when it returns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_api::artifact::{ArtifactKind, PinnedArtifact};
use fleet_api::deployment::Deployment;
use fleet_api::desired::Desired;
use fleet_api::ids::{Digest, IdError, Name, NodeId};
use fleet_api::labels::Labels;
use fleet_api::presence::Presence;
use fleet_api::reported::Reported;
use fleet_api::rest::ArtifactSummary;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row as _, Sqlite, Transaction};

use super::catalogue::Catalogue;
use crate::clock::now_ms;

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("write to the database: the disk is full; free space on the control plane")]
    Full(#[source] sqlx::Error),
    /// The database does not do what it is asked.
    #[error("use the database: {0}")]
    Sql(#[source] sqlx::Error),
    /// The schema cannot be brought up to date.
    #[error("bring the database {} up to date: {source}", path.display())]
    Migrate {
        /// The database's file.
        path: PathBuf,
        /// What stands in the way.
        source: sqlx::migrate::MigrateError,
    },
    /// A stored document cannot be read.
    #[error("read what is stored as {what}: {source}")]
    Document {
        /// What it should be.
        what: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A stored identifier cannot be read.
    #[error("read a stored identifier: {0}")]
    Id(#[from] IdError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL
        let full = |e: &sqlx::Error| {
            e.as_database_error()
                .and_then(|e| e.code())
                .is_some_and(|code| code == "13")
        };
        if full(&error) {
            Self::Full(error)
        } else {
            Self::Sql(error)
        }
    }
}

/// The fleet's database.
#[derive(Clone)]
pub(crate) struct Store {
    pool: SqlitePool,
}

/// A change that is not there until it is committed.
pub(crate) type Change = Transaction<'static, Sqlite>;

/// A node as it is kept.
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) labels: Labels,
    pub(crate) fingerprint: Digest,
    pub(crate) enrolled_ms: u64,
    pub(crate) last_seen_ms: Option<u64>,
    pub(crate) presence: Option<Presence>,
    pub(crate) reported: Option<Reported>,
}

/// A deployment as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentRow {
    pub(crate) spec: Deployment,
    pub(crate) created_ms: u64,
    pub(crate) applied_ms: u64,
}

/// A join token as it is kept.
pub(crate) struct TokenRow {
    pub(crate) labels: Labels,
    pub(crate) expires_ms: u64,
    pub(crate) uses: u32,
    pub(crate) used: u32,
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await?;
        sqlx::migrate!()
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { pool })
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Begins a change; no other can begin until it ends.
    pub(crate) async fn change(&self) -> Result<Change, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM nodes ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(node_row).collect()
    }

    pub(crate) async fn node(&self, node: &NodeId) -> Result<Option<NodeRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM nodes WHERE id = ?")
            .bind(node.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(node_row).transpose()
    }

    pub(crate) async fn remove_node(&self, node: &NodeId) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let removed = sqlx::query("DELETE FROM nodes WHERE id = ?")
            .bind(node.as_str())
            .execute(&mut *change)
            .await?;
        sqlx::query("UPDATE desired SET document = NULL WHERE node = ?")
            .bind(node.as_str())
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(removed.rows_affected() > 0)
    }

    pub(crate) async fn keep_presence(
        &self,
        node: &NodeId,
        presence: &Presence,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE nodes SET presence = ?, last_seen_ms = ? WHERE id = ?")
            .bind(to_json(presence))
            .bind(signed(now_ms()))
            .bind(node.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn keep_reported(
        &self,
        node: &NodeId,
        reported: &Reported,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE nodes SET reported = ?, last_seen_ms = ? WHERE id = ?")
            .bind(to_json(reported))
            .bind(signed(now_ms()))
            .bind(node.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn desired(&self, node: &NodeId) -> Result<Option<Desired>, StoreError> {
        let row =
            sqlx::query("SELECT document FROM desired WHERE node = ? AND document IS NOT NULL")
                .bind(node.as_str())
                .fetch_optional(&self.pool)
                .await?;
        row.map(|row| from_json("a desired state", row.get("document")))
            .transpose()
    }

    pub(crate) async fn all_desired(&self) -> Result<Vec<Desired>, StoreError> {
        let rows = sqlx::query("SELECT document FROM desired WHERE document IS NOT NULL")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| from_json("a desired state", row.get("document")))
            .collect()
    }

    pub(crate) async fn deployments(&self) -> Result<Vec<DeploymentRow>, StoreError> {
        let rows = sqlx::query(DEPLOYMENTS).fetch_all(&self.pool).await?;
        rows.iter().map(deployment_row).collect()
    }

    pub(crate) async fn artifacts(&self) -> Result<Vec<ArtifactSummary>, StoreError> {
        let rows = sqlx::query(ARTIFACTS).fetch_all(&self.pool).await?;
        rows.iter().map(artifact_row).collect()
    }

    pub(crate) async fn keep_token(
        &self,
        digest: &Digest,
        labels: &Labels,
        expires_ms: u64,
        uses: u32,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO join_tokens (digest, labels, created_ms, expires_ms, uses) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(digest.as_str())
        .bind(to_json(labels))
        .bind(signed(now_ms()))
        .bind(signed(expires_ms))
        .bind(uses)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

const DEPLOYMENTS: &str = "SELECT * FROM deployments ORDER BY created_ms, name";
const ARTIFACTS: &str = "SELECT * FROM artifacts ORDER BY kind, name, created_ms, version";

/// Inside a change.
pub(crate) mod within {
    use super::*;

    pub(crate) async fn token(
        change: &mut Change,
        digest: &Digest,
    ) -> Result<Option<TokenRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM join_tokens WHERE digest = ?")
            .bind(digest.as_str())
            .fetch_optional(&mut **change)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(TokenRow {
            labels: from_json("labels", row.get("labels"))?,
            expires_ms: unsigned(row.get("expires_ms")),
            uses: row.get("uses"),
            used: row.get("used"),
        }))
    }

    pub(crate) async fn use_token(change: &mut Change, digest: &Digest) -> Result<(), StoreError> {
        sqlx::query("UPDATE join_tokens SET used = used + 1 WHERE digest = ?")
            .bind(digest.as_str())
            .execute(&mut **change)
            .await?;
        Ok(())
    }

    pub(crate) async fn has_node(change: &mut Change, node: &NodeId) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM nodes WHERE id = ?")
            .bind(node.as_str())
            .fetch_optional(&mut **change)
            .await?;
        Ok(row.is_some())
    }

    pub(crate) async fn add_node(
        change: &mut Change,
        node: &NodeId,
        labels: &Labels,
        fingerprint: &Digest,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO nodes (id, labels, fingerprint, enrolled_ms) VALUES (?, ?, ?, ?)")
            .bind(node.as_str())
            .bind(to_json(labels))
            .bind(fingerprint.as_str())
            .bind(signed(now_ms()))
            .execute(&mut **change)
            .await?;
        Ok(())
    }

    pub(crate) async fn nodes(change: &mut Change) -> Result<Vec<NodeRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM nodes ORDER BY id")
            .fetch_all(&mut **change)
            .await?;
        rows.iter().map(node_row).collect()
    }

    pub(crate) async fn deployments(change: &mut Change) -> Result<Vec<DeploymentRow>, StoreError> {
        let rows = sqlx::query(DEPLOYMENTS).fetch_all(&mut **change).await?;
        rows.iter().map(deployment_row).collect()
    }

    pub(crate) async fn keep_deployment(
        change: &mut Change,
        row: &DeploymentRow,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO deployments (name, spec, created_ms, applied_ms) VALUES (?, ?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, applied_ms = excluded.applied_ms",
        )
        .bind(row.spec.deployment.name.as_str())
        .bind(to_json(&row.spec))
        .bind(signed(row.created_ms))
        .bind(signed(row.applied_ms))
        .execute(&mut **change)
        .await?;
        Ok(())
    }

    pub(crate) async fn remove_deployment(
        change: &mut Change,
        name: &Name,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM deployments WHERE name = ?")
            .bind(name.as_str())
            .execute(&mut **change)
            .await?;
        Ok(())
    }

    pub(crate) async fn catalogue(change: &mut Change) -> Result<Catalogue, StoreError> {
        let rows = sqlx::query(ARTIFACTS).fetch_all(&mut **change).await?;
        let summaries: Vec<_> = rows.iter().map(artifact_row).collect::<Result<_, _>>()?;
        Ok(Catalogue::new(summaries.into_iter().map(|a| {
            PinnedArtifact {
                kind: a.kind,
                name: a.name,
                version: a.version,
                digest: a.digest,
                size: a.size,
                files: a.files,
            }
        })))
    }

    /// The generation that each node has reached, and its document where it has one.
    pub(crate) async fn desired(
        change: &mut Change,
    ) -> Result<BTreeMap<NodeId, (u64, Option<Desired>)>, StoreError> {
        let rows = sqlx::query("SELECT node, generation, document FROM desired")
            .fetch_all(&mut **change)
            .await?;
        rows.iter()
            .map(|row| {
                let document: Option<String> = row.get("document");
                let document = document
                    .map(|text| from_json("a desired state", text))
                    .transpose()?;
                let node = NodeId::new(row.get::<String, _>("node"))?;
                Ok((node, (unsigned(row.get("generation")), document)))
            })
            .collect()
    }

    pub(crate) async fn keep_desired(
        change: &mut Change,
        desired: &Desired,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO desired (node, generation, document) VALUES (?, ?, ?)
             ON CONFLICT (node) DO UPDATE
             SET generation = excluded.generation, document = excluded.document
             WHERE excluded.generation > desired.generation",
        )
        .bind(desired.node.as_str())
        .bind(signed(desired.generation))
        .bind(to_json(desired))
        .execute(&mut **change)
        .await?;
        Ok(())
    }
}

fn node_row(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    let document = |column: &str| -> Option<String> { row.get(column) };
    Ok(NodeRow {
        id: NodeId::new(row.get::<String, _>("id"))?,
        labels: from_json("labels", row.get("labels"))?,
        fingerprint: Digest::new(row.get::<String, _>("fingerprint"))?,
        enrolled_ms: unsigned(row.get("enrolled_ms")),
        last_seen_ms: row.get::<Option<i64>, _>("last_seen_ms").map(unsigned),
        // A document of another version is as good as none: the node will send a new one.
        presence: document("presence").and_then(|text| serde_json::from_str(&text).ok()),
        reported: document("reported").and_then(|text| serde_json::from_str(&text).ok()),
    })
}

fn deployment_row(row: &SqliteRow) -> Result<DeploymentRow, StoreError> {
    Ok(DeploymentRow {
        spec: from_json("a deployment", row.get("spec"))?,
        created_ms: unsigned(row.get("created_ms")),
        applied_ms: unsigned(row.get("applied_ms")),
    })
}

fn artifact_row(row: &SqliteRow) -> Result<ArtifactSummary, StoreError> {
    let kind: String = row.get("kind");
    Ok(ArtifactSummary {
        kind: if kind == ArtifactKind::Model.to_string() {
            ArtifactKind::Model
        } else {
            ArtifactKind::Handler
        },
        name: Name::new(row.get::<String, _>("name"))?,
        version: fleet_api::ids::Version::new(row.get::<String, _>("version"))?,
        digest: Digest::new(row.get::<String, _>("digest"))?,
        manifest: Digest::new(row.get::<String, _>("manifest"))?,
        size: unsigned(row.get("size")),
        description: row.get("description"),
        files: from_json("files of an artifact", row.get("files"))?,
        created_ms: unsigned(row.get("created_ms")),
    })
}

pub(crate) fn from_json<T: DeserializeOwned>(
    what: &'static str,
    text: String,
) -> Result<T, StoreError> {
    serde_json::from_str(&text).map_err(|source| StoreError::Document { what, source })
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the fleet's documents have only string keys")
}

/// SQLite's integers are signed; no figure here comes near their end.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
