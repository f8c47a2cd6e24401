-- Limits of the user's own handlers: at most so many starts a minute and so many running at once, for each value of a field of the
-- payload by itself where `key` names one. One row for each name; what a process registers last counts for all of them.
CREATE TABLE handler_limit (
    name TEXT PRIMARY KEY,
    max_per_minute INTEGER NOT NULL CHECK (max_per_minute >= 0),
    max_concurrency INTEGER NOT NULL CHECK (max_concurrency >= 0),
    key TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A kind may also say which limit its tasks share: `key` is '' as they are published, FIELD=VALUE once they were sorted for it. Only
-- tasks that are ready or held are sorted; sorted kinds have numbers below 0. The constraint stands in the table's own text, so the
-- table is made anew. Its children are counted as lost and found again: the check of them has to wait for that.
PRAGMA defer_foreign_keys = ON;
CREATE TABLE kind_before AS SELECT id, name, capability FROM kind;
DROP TABLE kind;
CREATE TABLE kind (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    capability TEXT NOT NULL,
    key TEXT NOT NULL DEFAULT '',
    UNIQUE (capability, name, key),
    CONSTRAINT sorted_kinds_are_below_zero CHECK ((id < 0) = (key <> ''))
) STRICT;
INSERT INTO kind (id, name, capability) SELECT id, name, capability FROM kind_before;
DROP TABLE kind_before;
CREATE INDEX kind_name ON kind (name);

-- The ready tasks that were sorted, one lane for each kind and priority, most urgent first within a kind.
CREATE INDEX task_lane ON task (kind * 8 - priority, seq) WHERE state = 'ready' AND kind < 0;

-- What is neither ready nor held goes back to the kind it was published with, so that sorted kinds hold only what needs them.
CREATE TRIGGER task_unsorted AFTER UPDATE OF state ON task
WHEN new.kind < 0 AND new.state <> 'ready' AND new.state <> 'running' AND new.state <> 'acknowledged'
BEGIN
    UPDATE task
    SET kind = (
        SELECT base.id
        FROM kind AS mine CROSS JOIN kind AS base
            ON base.capability = mine.capability AND base.name = mine.name AND base.key = ''
        WHERE mine.id = new.kind
    )
    WHERE seq = new.seq;
END;
