-- What nodes tell; the archive has all of it, this is the recent part for people.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    node    TEXT    NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    -- The event as the node wrote it, as JSON.
    event   TEXT    NOT NULL,
    UNIQUE (node, epoch, seq)
) STRICT;
CREATE INDEX events_by_node ON events (node, id);
