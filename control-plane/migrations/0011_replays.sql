-- Replays of recorded ranges on nodes: what was asked for, and what the node said last.
CREATE TABLE replays (
    id         TEXT PRIMARY KEY,
    node       TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    ended      INTEGER NOT NULL DEFAULT 0,
    spec       TEXT NOT NULL,
    report     TEXT NOT NULL
) STRICT;

CREATE INDEX replays_by_node ON replays (node, created_ms);
