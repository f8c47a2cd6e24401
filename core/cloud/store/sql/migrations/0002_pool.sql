-- Endpoints, their health, limiter slots, statistics. Times are UTC epoch seconds.

CREATE TABLE pool_endpoint (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    settings TEXT NOT NULL,
    needs_key INTEGER NOT NULL CHECK (needs_key IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX pool_endpoint_position ON pool_endpoint (position);

-- One row: grows with each change that other processes should notice soon (settings, resets).
CREATE TABLE pool_version (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO pool_version (id, version) VALUES (1, 0);

CREATE TABLE pool_health (
    endpoint TEXT PRIMARY KEY REFERENCES pool_endpoint (name) ON DELETE CASCADE,
    failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    kind TEXT NOT NULL DEFAULT '' CHECK (kind IN ('', 'transient', 'endpoint_fault', 'rate_limited')),
    hold REAL NOT NULL DEFAULT 0 CHECK (hold >= 0),
    held_from REAL NOT NULL DEFAULT 0,
    held_until REAL NOT NULL DEFAULT 0,
    probe INTEGER NOT NULL DEFAULT 0,
    probe_until REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The ring of the last starts: `seq` counts up, rows older than the window go. Like the spending below it outlives its endpoint for
-- as long as it counts, because removing and adding an endpoint is no way around its limits.
CREATE TABLE pool_start (
    endpoint TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (endpoint, seq)
) STRICT, WITHOUT ROWID;

-- Calls under way, for endpoints that limit them; a row whose time is over belongs to a process that died.
CREATE TABLE pool_flight (
    endpoint TEXT NOT NULL REFERENCES pool_endpoint (name) ON DELETE CASCADE,
    token INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (endpoint, token)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_spending (
    endpoint TEXT NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (endpoint, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_total (
    endpoint TEXT PRIMARY KEY REFERENCES pool_endpoint (name) ON DELETE CASCADE,
    seconds REAL NOT NULL DEFAULT 0,
    tokens_in INTEGER NOT NULL DEFAULT 0,
    tokens_out INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    last_error_at REAL NOT NULL DEFAULT 0,
    last_used_at REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_outcome (
    endpoint TEXT NOT NULL REFERENCES pool_endpoint (name) ON DELETE CASCADE,
    outcome TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (endpoint, outcome)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_latency (
    endpoint TEXT NOT NULL REFERENCES pool_endpoint (name) ON DELETE CASCADE,
    bucket INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (endpoint, bucket)
) STRICT, WITHOUT ROWID;
