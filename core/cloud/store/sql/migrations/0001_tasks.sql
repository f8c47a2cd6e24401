-- What a task is: its handler's name, and what a process must have to run it. One small integer in the hot table.
CREATE TABLE kind (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    capability TEXT NOT NULL,
    UNIQUE (capability, name)
) STRICT;
CREATE INDEX kind_name ON kind (name);

-- The hot table: rows stay narrow because each claim and each finish rewrites one.
-- `state` is the status with pending split in three (blocked, later, ready), so that each has its own index range.
-- Checks and index conditions avoid IN with three values or more: SQLite builds a table for it in each statement.
CREATE TABLE task (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind INTEGER NOT NULL REFERENCES kind (id),
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    blockers INTEGER NOT NULL DEFAULT 0,         -- parents that are not completed; counted anew by a retry
    attempt INTEGER NOT NULL DEFAULT 0,          -- attempts started; the fencing token of the present holder
    interruptions INTEGER NOT NULL DEFAULT 0,    -- attempts whose worker died, since the last retry by hand
    forgiven INTEGER NOT NULL DEFAULT 0,         -- other attempts that use up no retry: released, or before a retry by hand
    max_retries INTEGER NOT NULL,
    on_dependency_failure TEXT NOT NULL DEFAULT 'wait',
    timeout REAL,
    created_at REAL NOT NULL,
    run_at REAL,
    expires_at REAL,
    started_at REAL,
    ended_at REAL,
    owner TEXT,
    lease_until REAL,
    idempotency_key TEXT,
    CONSTRAINT state_holds_together CHECK (
        CASE state
            WHEN 'ready' THEN blockers = 0 AND owner IS NULL AND ended_at IS NULL
            WHEN 'running' THEN owner IS NOT NULL AND started_at IS NOT NULL AND attempt > 0 AND ended_at IS NULL
            WHEN 'completed' THEN owner IS NULL AND ended_at IS NOT NULL
            WHEN 'blocked' THEN blockers > 0 AND owner IS NULL AND ended_at IS NULL
            WHEN 'later' THEN blockers = 0 AND owner IS NULL AND ended_at IS NULL AND run_at IS NOT NULL
            WHEN 'acknowledged' THEN owner IS NOT NULL AND started_at IS NOT NULL AND attempt > 0 AND ended_at IS NULL
            WHEN 'failed' THEN owner IS NULL AND ended_at IS NOT NULL
            WHEN 'cancelled' THEN owner IS NULL AND ended_at IS NOT NULL
            WHEN 'expired' THEN owner IS NULL AND ended_at IS NOT NULL
            ELSE 0
        END
    ),
    CONSTRAINT owner_has_a_lease CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT known_priority CHECK (priority BETWEEN 1 AND 4),
    CONSTRAINT known_policy CHECK (on_dependency_failure = 'wait' OR on_dependency_failure = 'cancel'),
    CONSTRAINT free_attempts_happened CHECK (interruptions >= 0 AND forgiven >= 0 AND interruptions + forgiven <= attempt)
) STRICT;
CREATE INDEX task_state ON task (state, priority DESC, seq);
CREATE INDEX task_kind ON task (kind, state, priority DESC, seq);
CREATE INDEX task_later ON task (run_at) WHERE state = 'later';
CREATE INDEX task_expiring ON task (expires_at) WHERE expires_at IS NOT NULL AND owner IS NULL AND ended_at IS NULL;
CREATE INDEX task_held ON task (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX task_ended ON task (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Written once, read when the task starts or is shown.
CREATE TABLE body (
    task INTEGER PRIMARY KEY REFERENCES task (seq) ON DELETE CASCADE,
    payload TEXT NOT NULL,
    tags TEXT                                    -- JSON array in the order given; NULL for none
) STRICT;

-- Apart from the body: rewriting a row with a large payload to add a small result would cost both.
CREATE TABLE outcome (
    task INTEGER PRIMARY KEY REFERENCES task (seq) ON DELETE CASCADE,
    result TEXT,
    error TEXT
) STRICT;

CREATE TABLE progress (
    task INTEGER PRIMARY KEY REFERENCES task (seq) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,                    -- progress of an earlier attempt is not shown
    share REAL CHECK (share BETWEEN 0 AND 1),
    message TEXT NOT NULL
) STRICT;

CREATE TABLE tag (
    tag TEXT NOT NULL,
    priority INTEGER NOT NULL,
    task INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    PRIMARY KEY (tag, priority, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_task ON tag (task);

CREATE TABLE dependency (
    parent INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    child INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    position INTEGER NOT NULL,                   -- in the child's depends_on
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dependency_child ON dependency (child, position);

-- Attempts that ended; the one that runs is in the task's own row until then.
CREATE TABLE attempt (
    task INTEGER NOT NULL REFERENCES task (seq) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    worker TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    outcome TEXT NOT NULL CHECK (
        CASE outcome
            WHEN 'completed' THEN 1 WHEN 'failed' THEN 1 WHEN 'timed_out' THEN 1
            WHEN 'cancelled' THEN 1 WHEN 'interrupted' THEN 1 ELSE 0
        END
    ),
    error TEXT,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

-- Statistics without counting: one row for each state and priority, kept by the triggers below.
CREATE TABLE counter (
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    tasks INTEGER NOT NULL DEFAULT 0 CHECK (tasks >= 0),
    timed INTEGER NOT NULL DEFAULT 0,            -- those with both a start and an end
    seconds REAL NOT NULL DEFAULT 0,             -- from start to end, summed over the timed ones
    PRIMARY KEY (state, priority)
) STRICT, WITHOUT ROWID;
INSERT INTO counter (state, priority)
SELECT states.value, priorities.value
FROM json_each('["blocked","later","ready","acknowledged","running","completed","failed","cancelled","expired"]') AS states,
     json_each('[1,2,3,4]') AS priorities;

CREATE TRIGGER task_inserted AFTER INSERT ON task BEGIN
    UPDATE counter
    SET tasks = tasks + 1,
        timed = timed + (new.started_at IS NOT NULL AND new.ended_at IS NOT NULL),
        seconds = seconds + coalesce(new.ended_at - new.started_at, 0)
    WHERE state = new.state AND priority = new.priority;
END;

CREATE TRIGGER task_moved AFTER UPDATE OF state ON task WHEN new.state <> old.state BEGIN
    UPDATE counter
    SET tasks = tasks - 1,
        timed = timed - (old.started_at IS NOT NULL AND old.ended_at IS NOT NULL),
        seconds = seconds - coalesce(old.ended_at - old.started_at, 0)
    WHERE state = old.state AND priority = old.priority;
    UPDATE counter
    SET tasks = tasks + 1,
        timed = timed + (new.started_at IS NOT NULL AND new.ended_at IS NOT NULL),
        seconds = seconds + coalesce(new.ended_at - new.started_at, 0)
    WHERE state = new.state AND priority = new.priority;
END;

CREATE TRIGGER task_deleted AFTER DELETE ON task BEGIN
    UPDATE counter
    SET tasks = tasks - 1,
        timed = timed - (old.started_at IS NOT NULL AND old.ended_at IS NOT NULL),
        seconds = seconds - coalesce(old.ended_at - old.started_at, 0)
    WHERE state = old.state AND priority = old.priority;
END;

-- The transition table of core/cloud/task.py once more: code that is wrong cannot write a move that is not in it.
CREATE TRIGGER task_transition BEFORE UPDATE OF state ON task
WHEN new.state <> old.state AND NOT CASE old.state
    WHEN 'blocked' THEN 1
    WHEN 'later' THEN 1
    WHEN 'ready' THEN 1
    WHEN 'acknowledged' THEN 1
    WHEN 'running' THEN new.state <> 'acknowledged' AND new.state <> 'expired'
    WHEN 'completed' THEN 0
    ELSE new.state = 'blocked' OR new.state = 'later' OR new.state = 'ready'
END
BEGIN
    SELECT raise(ABORT, 'a task cannot make this move');
END;

-- Processes that run tasks; a row not seen for a while is a process that died.
CREATE TABLE worker (
    worker TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    wake_port INTEGER NOT NULL,
    capabilities TEXT NOT NULL,                  -- JSON array
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Who does a duty that only one process may do at a time.
CREATE TABLE leader (
    duty TEXT PRIMARY KEY,
    worker TEXT NOT NULL,
    until REAL NOT NULL
) STRICT, WITHOUT ROWID;
