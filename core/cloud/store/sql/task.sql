-- name: kind_find
-- The number of a name with its capability, before its tasks are sorted by what limits them.
SELECT id FROM kind WHERE capability = ?1 AND name = ?2 AND key = '';

-- name: kind_add
INSERT INTO kind (capability, name) VALUES (?1, ?2) RETURNING id;

-- name: kinds_named
-- A name has several kinds when some of its tasks need one endpoint only, or share a limit (those below 0: ready or held).
SELECT id FROM kind WHERE name = ?1 ORDER BY id;

-- name: capability_of
SELECT capability FROM kind WHERE id = ?1;

-- name: all_capabilities
-- For an agent that can do anything. The table has a row for each kind of task ever published.
SELECT json_group_array(DISTINCT capability) FROM kind;

-- name: newest_seq
-- Sequence numbers are given by the writer, so that a batch goes in with executemany.
SELECT coalesce(max(seq), 0) FROM task;

-- name: find_key
-- The task that was published with this idempotency key, and what it was.
SELECT task.id, kind.name, body.payload
FROM task CROSS JOIN kind ON kind.id = task.kind CROSS JOIN body ON body.task = task.seq
WHERE task.idempotency_key = ?1;

-- name: insert
INSERT INTO task (
    seq, id, kind, state, priority, blockers, max_retries, on_dependency_failure,
    timeout, created_at, run_at, expires_at, ended_at, idempotency_key
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_body
INSERT INTO body (task, payload, tags) VALUES (?, ?, ?);

-- name: insert_tag
INSERT INTO tag (tag, priority, task) VALUES (?, ?, ?);

-- name: claim
-- Takes the heads of the ready queues of every kind this process can run. Asking each kind's index range for its first
-- few keeps a claim short when any number of ready tasks wait for a capability that is not here.
-- Of the suspects (as in the index task_suspect) only ?7 may be among them; NULL lets all be.
UPDATE task
SET state = ?1, owner = ?2, lease_until = ?3, started_at = ?4, attempt = attempt + 1
WHERE seq IN (
    SELECT head.seq
    FROM kind CROSS JOIN task AS head ON head.seq IN (
        SELECT waiting.seq FROM task AS waiting
        WHERE waiting.kind = kind.id AND waiting.state = 'ready'
            AND (waiting.expires_at IS NULL OR waiting.expires_at > ?4)
            AND (?7 IS NULL OR waiting.interruptions < 2 OR waiting.seq = ?7)
        ORDER BY waiting.priority DESC, waiting.seq
        LIMIT ?5
    )
    WHERE kind.capability IN (SELECT value FROM json_each(?6))
    ORDER BY head.priority DESC, head.seq
    LIMIT ?5
)
RETURNING
    seq, priority, id, attempt, (SELECT name FROM kind WHERE kind.id = task.kind), timeout, max_retries,
    interruptions + forgiven,
    (SELECT payload FROM body WHERE body.task = task.seq),
    EXISTS (SELECT 1 FROM dependency WHERE child = task.seq),
    interruptions >= 2;

-- name: claim_aged
-- The same when waiting counts: each ?8 seconds as one step of priority. Of each kind and priority the oldest are the first
-- in this order too, so the heads of four index ranges instead of one are all that is looked at. The order of two tasks
-- never changes as time passes, because both grow older alike.
UPDATE task
SET state = ?1, owner = ?2, lease_until = ?3, started_at = ?4, attempt = attempt + 1
WHERE seq IN (
    SELECT head.seq
    FROM kind CROSS JOIN (SELECT value AS priority FROM json_each('[4,3,2,1]')) AS step CROSS JOIN task AS head ON head.seq IN (
        SELECT waiting.seq FROM task AS waiting
        WHERE waiting.kind = kind.id AND waiting.state = 'ready' AND waiting.priority = step.priority
            AND (waiting.expires_at IS NULL OR waiting.expires_at > ?4)
            AND (?7 IS NULL OR waiting.interruptions < 2 OR waiting.seq = ?7)
        ORDER BY waiting.seq
        LIMIT ?5
    )
    WHERE kind.capability IN (SELECT value FROM json_each(?6))
    ORDER BY max(head.created_at, coalesce(head.run_at, 0)) - ?8 * head.priority, head.seq
    LIMIT ?5
)
RETURNING
    seq, priority, id, attempt, (SELECT name FROM kind WHERE kind.id = task.kind), timeout, max_retries,
    interruptions + forgiven,
    (SELECT payload FROM body WHERE body.task = task.seq),
    EXISTS (SELECT 1 FROM dependency WHERE child = task.seq),
    interruptions >= 2,
    max(created_at, coalesce(run_at, 0)) - ?8 * priority;

-- name: heads
-- The same without taking any, for a claim that has to ask limits one task at a time. Binds now, limit, capabilities, suspect.
SELECT head.seq, kind.capability, -head.priority
FROM kind CROSS JOIN task AS head ON head.seq IN (
    SELECT waiting.seq FROM task AS waiting
    WHERE waiting.kind = kind.id AND waiting.state = 'ready'
        AND (waiting.expires_at IS NULL OR waiting.expires_at > ?1)
        AND (?4 IS NULL OR waiting.interruptions < 2 OR waiting.seq = ?4)
    ORDER BY waiting.priority DESC, waiting.seq
    LIMIT ?2
)
WHERE kind.capability IN (SELECT value FROM json_each(?3))
ORDER BY head.priority DESC, head.seq;

-- name: heads_aged
-- The same when waiting counts. Binds also the seconds of a step.
SELECT head.seq, kind.capability, max(head.created_at, coalesce(head.run_at, 0)) - ?5 * head.priority
FROM kind CROSS JOIN (SELECT value AS priority FROM json_each('[4,3,2,1]')) AS step CROSS JOIN task AS head ON head.seq IN (
    SELECT waiting.seq FROM task AS waiting
    WHERE waiting.kind = kind.id AND waiting.state = 'ready' AND waiting.priority = step.priority
        AND (waiting.expires_at IS NULL OR waiting.expires_at > ?1)
        AND (?4 IS NULL OR waiting.interruptions < 2 OR waiting.seq = ?4)
    ORDER BY waiting.seq
    LIMIT ?2
)
WHERE kind.capability IN (SELECT value FROM json_each(?3))
ORDER BY max(head.created_at, coalesce(head.run_at, 0)) - ?5 * head.priority, head.seq;

-- name: claim_these
-- Takes the tasks that were chosen among the heads.
UPDATE task
SET state = ?1, owner = ?2, lease_until = ?3, started_at = ?4, attempt = attempt + 1
WHERE seq IN (SELECT value FROM json_each(?5))
RETURNING
    seq, priority, id, attempt, (SELECT name FROM kind WHERE kind.id = task.kind), timeout, max_retries,
    interruptions + forgiven,
    (SELECT payload FROM body WHERE body.task = task.seq),
    EXISTS (SELECT 1 FROM dependency WHERE child = task.seq),
    interruptions >= 2;

-- name: payload
SELECT payload FROM body WHERE task = ?1;

-- name: ready_among
-- Which of these capabilities have a ready task: a step in the index for each.
SELECT DISTINCT capability FROM kind
WHERE capability IN (SELECT value FROM json_each(?1))
    AND EXISTS (SELECT 1 FROM task WHERE task.kind = kind.id AND task.state = 'ready');

-- name: next_suspect
-- The suspect whose turn it is, among those that this process can run.
SELECT seq FROM task INDEXED BY task_suspect
WHERE state = 'ready' AND interruptions >= 2 AND (expires_at IS NULL OR expires_at > ?2)
    AND (SELECT capability FROM kind WHERE kind.id = task.kind) IN (SELECT value FROM json_each(?1))
ORDER BY priority DESC, seq LIMIT 1;

-- name: claim_one
-- The same for one given task, whatever it needs.
UPDATE task
SET state = ?1, owner = ?2, lease_until = ?3, started_at = ?4, attempt = attempt + 1
WHERE id = ?5 AND state = 'ready' AND (expires_at IS NULL OR expires_at > ?4)
RETURNING
    seq, priority, id, attempt, (SELECT name FROM kind WHERE kind.id = task.kind), timeout, max_retries,
    interruptions + forgiven,
    (SELECT payload FROM body WHERE body.task = task.seq),
    EXISTS (SELECT 1 FROM dependency WHERE child = task.seq),
    interruptions >= 2;

-- name: has_ready
-- Asked on the reading connection first, so that an idle process takes no write lock.
SELECT EXISTS (
    SELECT 1 FROM kind CROSS JOIN task ON task.kind = kind.id AND task.state = 'ready'
    WHERE kind.capability IN (SELECT value FROM json_each(?1))
);

-- name: settle
-- The fence: only the holder of this very attempt may end it.
-- Binds state, ended_at, run_at, 1 for an attempt that uses up no retry, id, owner, attempt.
UPDATE task
SET state = ?1, ended_at = ?2, run_at = coalesce(?3, run_at), forgiven = forgiven + ?4, owner = NULL, lease_until = NULL
WHERE id = ?5 AND owner = ?6 AND attempt = ?7
RETURNING id, attempt, ?6, seq, started_at, EXISTS (SELECT 1 FROM dependency WHERE parent = task.seq);

-- name: renew
-- Also to an earlier moment: a clock that was put back by hours must not leave a lease that outlives its holder by as much.
UPDATE task SET lease_until = ?1 WHERE id = ?2 AND owner = ?3 AND attempt = ?4
RETURNING id, attempt;

-- name: holds
SELECT seq FROM task WHERE id = ?1 AND owner = ?2 AND attempt = ?3;

-- name: find
-- What a change from outside needs to know before it is allowed.
SELECT seq, state, owner, attempt, started_at, blockers, run_at, expires_at, kind, priority, timeout
FROM task WHERE id = ?1;

-- name: move
-- One task to another state, whatever held it. Binds seq, state, ended_at, run_at.
UPDATE task SET state = ?2, ended_at = ?3, run_at = ?4, owner = NULL, lease_until = NULL WHERE seq = ?1;

-- name: hold
-- A task given to an owner by hand. Binds seq, state, owner, lease_until, now.
UPDATE task SET state = ?2, owner = ?3, lease_until = ?4, started_at = ?5, attempt = attempt + 1 WHERE seq = ?1;

-- name: extend
-- The holder goes from acknowledged to running, or says that it still is.
UPDATE task SET state = ?2, lease_until = max(lease_until, ?3) WHERE seq = ?1;

-- name: revive
-- A final task starts anew: earlier attempts use up no retry, and its parents are counted again.
UPDATE task
SET state = CASE WHEN ?2 > 0 THEN 'blocked' ELSE 'ready' END, blockers = ?2,
    forgiven = attempt, interruptions = 0, ended_at = NULL, run_at = NULL,
    expires_at = CASE WHEN expires_at > ?3 THEN expires_at END
WHERE seq = ?1;

-- name: forgive
-- A task given back in good order: the attempt uses up no retry and does not count towards the poison limit.
UPDATE task SET state = 'ready', forgiven = forgiven + 1, owner = NULL, lease_until = NULL WHERE seq = ?1;

-- name: held_by
-- The lower bound on lease_until lets the index of held tasks answer; there are only as many as are running now.
SELECT seq, id, attempt, owner, started_at FROM task INDEXED BY task_held
WHERE lease_until > 0 AND owner = ?1;

-- name: held_beside
-- How many tasks a worker holds; asked when one of them may be what killed it.
SELECT count(*) FROM task INDEXED BY task_held WHERE lease_until > 0 AND owner = ?1;

-- name: lost
-- Held tasks whose lease ended.
SELECT seq, id, attempt, owner, started_at, interruptions FROM task INDEXED BY task_held
WHERE lease_until <= ?1 ORDER BY lease_until LIMIT ?2;

-- name: interrupt
-- A lost lease: pending again, or failed when it was cut off too often. Binds seq, state, ended_at.
UPDATE task
SET state = ?2, ended_at = ?3, interruptions = interruptions + 1, owner = NULL, lease_until = NULL
WHERE seq = ?1;

-- name: expire
-- With the error of the last attempt, which may have been cut off without one of its own.
-- INDEXED BY, here and below: without statistics SQLite would take the index of states and walk the whole state.
UPDATE task SET state = 'expired', ended_at = ?1
WHERE seq IN (
    SELECT seq FROM task INDEXED BY task_expiring
    WHERE expires_at <= ?1 AND owner IS NULL AND ended_at IS NULL
    ORDER BY expires_at LIMIT ?2
)
RETURNING seq, id, coalesce(
    (SELECT error FROM outcome WHERE outcome.task = task.seq),
    (SELECT error FROM attempt WHERE attempt.task = task.seq ORDER BY number DESC LIMIT 1)
);

-- name: promote
-- Delayed tasks whose time has come.
UPDATE task SET state = 'ready'
WHERE seq IN (SELECT seq FROM task INDEXED BY task_later WHERE state = 'later' AND run_at <= ?1 ORDER BY run_at LIMIT ?2)
RETURNING seq;

-- name: retries_ahead
-- Retries whose failed attempt ended at a moment that is still to come. An attempt that was cut off set no time of its own.
SELECT task.seq, task.id, task.run_at, attempt.number, attempt.ended_at
FROM task INDEXED BY task_again CROSS JOIN attempt ON attempt.task = task.seq AND attempt.number = task.attempt
WHERE task.state = 'later' AND task.attempt > 0 AND task.run_at > ?1
    AND attempt.ended_at > ?1 AND attempt.outcome IN ('failed', 'timed_out')
ORDER BY task.run_at LIMIT ?2;

-- name: put_off
UPDATE task SET run_at = ?2 WHERE seq = ?1;

-- name: next_later
SELECT min(run_at) FROM task INDEXED BY task_later WHERE state = 'later';

-- name: next_expiring
SELECT min(expires_at) FROM task INDEXED BY task_expiring WHERE expires_at IS NOT NULL AND owner IS NULL AND ended_at IS NULL;

-- name: next_lost
SELECT min(lease_until) FROM task INDEXED BY task_held WHERE lease_until IS NOT NULL;

-- name: put_outcome
INSERT INTO outcome (task, result, error) VALUES (?1, ?2, ?3)
ON CONFLICT (task) DO UPDATE SET result = excluded.result, error = excluded.error;

-- name: put_progress
INSERT INTO progress (task, attempt, share, message) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (task) DO UPDATE SET attempt = excluded.attempt, share = excluded.share, message = excluded.message;

-- name: show
-- Whole tasks by sequence number, in no order.
SELECT
    task.seq, task.id, kind.name, task.state, task.priority, body.payload, body.tags, task.on_dependency_failure,
    task.timeout, task.max_retries, task.attempt, task.interruptions, task.idempotency_key, task.created_at,
    task.run_at, task.expires_at, task.started_at, task.ended_at, task.owner, task.lease_until,
    progress.share, progress.message, outcome.result, outcome.error
FROM json_each(?1) AS wanted
CROSS JOIN task ON task.seq = wanted.value
CROSS JOIN kind ON kind.id = task.kind
CROSS JOIN body ON body.task = task.seq
LEFT JOIN outcome ON outcome.task = task.seq
LEFT JOIN progress ON progress.task = task.seq AND progress.attempt = task.attempt;

-- name: seq_of
SELECT seq FROM task WHERE id = ?1;

-- name: ids_from
-- The first two ids at or after a prefix: one, when it is unique.
SELECT id FROM task WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2;

-- name: newest_ids
SELECT id FROM task ORDER BY seq DESC LIMIT ?1;

-- name: results
SELECT task.id, outcome.result
FROM json_each(?1) AS wanted
CROSS JOIN task ON task.id = wanted.value
CROSS JOIN outcome ON outcome.task = task.seq
WHERE task.state = 'completed';

-- name: page_oldest
-- One state and priority, oldest first. Lists are merged from such ranges, so a page costs what it shows.
-- ?5 is the time now for a list of what could start, else NULL.
SELECT seq FROM task
WHERE state = ?1 AND priority = ?2 AND seq > ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq LIMIT ?4;

-- name: page_newest
SELECT seq FROM task
WHERE state = ?1 AND priority = ?2 AND seq < ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq DESC LIMIT ?4;

-- name: page_kind_oldest
SELECT seq FROM task
WHERE kind = ?6 AND state = ?1 AND priority = ?2 AND seq > ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq LIMIT ?4;

-- name: page_kind_newest
SELECT seq FROM task
WHERE kind = ?6 AND state = ?1 AND priority = ?2 AND seq < ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq DESC LIMIT ?4;

-- name: page_sorted_oldest
-- Of all kinds of a name that share limits: there may be thousands, so they are not merged one by one.
SELECT seq FROM task INDEXED BY task_kind
WHERE kind IN (SELECT id FROM kind WHERE name = ?6 AND id < 0) AND state = ?1 AND priority = ?2 AND seq > ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq LIMIT ?4;

-- name: page_sorted_newest
SELECT seq FROM task INDEXED BY task_kind
WHERE kind IN (SELECT id FROM kind WHERE name = ?6 AND id < 0) AND state = ?1 AND priority = ?2 AND seq < ?3
    AND (?5 IS NULL OR expires_at IS NULL OR expires_at > ?5)
ORDER BY seq DESC LIMIT ?4;

-- name: page_tag_oldest
-- Walks the tasks of one tag and keeps those that meet the other conditions.
SELECT tag.task FROM tag
WHERE tag.tag = ?6 AND tag.priority = ?2 AND tag.task > ?3
    AND (SELECT state FROM task WHERE seq = tag.task) IN (SELECT value FROM json_each(?1))
    AND (?5 IS NULL OR coalesce((SELECT expires_at > ?5 FROM task WHERE seq = tag.task), TRUE))
    AND (?7 IS NULL OR (SELECT kind FROM task WHERE seq = tag.task) IN (SELECT value FROM json_each(?7)))
    AND NOT EXISTS (
        SELECT 1 FROM json_each(?8) AS other
        WHERE NOT EXISTS (SELECT 1 FROM tag AS has WHERE has.tag = other.value AND has.priority = ?2 AND has.task = tag.task)
    )
ORDER BY tag.task LIMIT ?4;

-- name: page_tag_newest
SELECT tag.task FROM tag
WHERE tag.tag = ?6 AND tag.priority = ?2 AND tag.task < ?3
    AND (SELECT state FROM task WHERE seq = tag.task) IN (SELECT value FROM json_each(?1))
    AND (?5 IS NULL OR coalesce((SELECT expires_at > ?5 FROM task WHERE seq = tag.task), TRUE))
    AND (?7 IS NULL OR (SELECT kind FROM task WHERE seq = tag.task) IN (SELECT value FROM json_each(?7)))
    AND NOT EXISTS (
        SELECT 1 FROM json_each(?8) AS other
        WHERE NOT EXISTS (SELECT 1 FROM tag AS has WHERE has.tag = other.value AND has.priority = ?2 AND has.task = tag.task)
    )
ORDER BY tag.task DESC LIMIT ?4;

-- name: page_published
-- The order of publication, for exports.
SELECT seq FROM task WHERE seq > ?1 ORDER BY seq LIMIT ?2;

-- name: find_same
-- What an import compares to tell the same task from another with its id.
SELECT kind.name, body.payload, task.created_at
FROM task CROSS JOIN kind ON kind.id = task.kind CROSS JOIN body ON body.task = task.seq
WHERE task.id = ?1;

-- name: restore
INSERT INTO task (
    seq, id, kind, state, priority, blockers, attempt, interruptions, forgiven, max_retries, on_dependency_failure,
    timeout, created_at, run_at, expires_at, started_at, ended_at, idempotency_key
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: counters
-- The whole table has 36 rows.
SELECT state, priority, tasks, timed, seconds FROM counter;

-- name: ahead
-- Ready tasks that go before one, counted up to a limit.
SELECT count(*) FROM (
    SELECT 1 FROM task WHERE state = 'ready' AND priority > ?1
    UNION ALL
    SELECT 1 FROM task WHERE state = 'ready' AND priority = ?1 AND seq < ?2
    LIMIT ?3
);

-- name: before_in_gate
-- Ready tasks of the same handler that go before one, counted up to a limit; of those bound to one endpoint (NAME@ENDPOINT)
-- only its own, and for one that is bound itself those that any endpoint may serve; of those sorted by a limit only those that share it.
-- Binds priority, seq, limit, kind.
SELECT count(*) FROM (
    SELECT 1
    FROM kind AS mine CROSS JOIN kind AS mate ON mate.name = mine.name CROSS JOIN task AS other ON other.kind = mate.id
    WHERE mine.id = ?4 AND other.state = 'ready' AND other.priority >= ?1 AND (other.priority > ?1 OR other.seq < ?2)
        AND (mate.id = mine.id OR instr(mate.capability, '@') = 0 OR instr(mine.capability, '@') = 0)
        AND (mate.key = mine.key OR mate.key = '' OR mine.key = '')
    LIMIT ?3
);

-- name: ready_by_capability
-- How many ready tasks of a handler wait, for each of its capabilities. Walks the ready part of the index of kinds.
SELECT kind.capability, count(*)
FROM kind CROSS JOIN task ON task.kind = kind.id AND task.state = 'ready'
WHERE kind.name = ?1
GROUP BY kind.capability;

-- name: purgeable
-- Final tasks that ended long enough ago, but none that a task which could still run depends on.
SELECT task.seq, task.state FROM task INDEXED BY task_ended
WHERE task.ended_at < ?1 AND task.ended_at IS NOT NULL AND task.state IN (SELECT value FROM json_each(?2))
    AND NOT EXISTS (
        SELECT 1 FROM dependency CROSS JOIN task AS child ON child.seq = dependency.child
        WHERE dependency.parent = task.seq AND child.state <> 'completed'
    )
ORDER BY task.ended_at LIMIT ?3;

-- name: delete
DELETE FROM task WHERE seq = ?;
