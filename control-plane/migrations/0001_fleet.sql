CREATE TABLE nodes (
    id          TEXT PRIMARY KEY,
    -- What the join token gave it, as JSON.
    labels      TEXT    NOT NULL,
    -- Digest of the certificate that it holds now.
    fingerprint TEXT    NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    last_seen_ms INTEGER,
    -- The last documents that it sent, as JSON.
    presence    TEXT,
    reported    TEXT
) STRICT;

-- Stays when a node goes, so that a generation is never given twice.
CREATE TABLE desired (
    node       TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    document   TEXT
) STRICT;

CREATE TABLE deployments (
    name       TEXT PRIMARY KEY,
    spec       TEXT    NOT NULL,
    -- An older deployment keeps what a newer one also wants.
    created_ms INTEGER NOT NULL,
    applied_ms INTEGER NOT NULL
) STRICT;

-- Only the digest of a token's secret is kept.
CREATE TABLE join_tokens (
    digest     TEXT PRIMARY KEY,
    labels     TEXT    NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses       INTEGER NOT NULL,
    used       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE blobs (
    repository TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    size       INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT;

CREATE TABLE manifests (
    repository    TEXT NOT NULL,
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    content       BLOB NOT NULL,
    subject       TEXT,
    artifact_type TEXT,
    created_ms    INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT;
CREATE INDEX manifests_by_subject ON manifests (repository, subject);

CREATE TABLE tags (
    repository TEXT NOT NULL,
    tag        TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    PRIMARY KEY (repository, tag)
) STRICT;

CREATE TABLE artifacts (
    kind        TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    manifest    TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    description TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (kind, name, version)
) STRICT;
