-- name: put
-- What is registered last counts.
INSERT INTO handler_limit (name, max_per_minute, max_concurrency, key) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (name) DO UPDATE SET
    max_per_minute = excluded.max_per_minute, max_concurrency = excluded.max_concurrency, key = excluded.key;

-- name: lift
DELETE FROM handler_limit WHERE name = ?1;

-- name: all
SELECT name, max_per_minute, max_concurrency, key FROM handler_limit;

-- name: one_of
SELECT max_per_minute, max_concurrency, key FROM handler_limit WHERE name = ?1;

-- name: of_names
-- With each the kind that its tasks are published with, when some of these are ready and so have to be sorted; and the version of the partitions.
SELECT
    handler_limit.name, max_per_minute, max_concurrency, handler_limit.key, (SELECT version FROM partition_version WHERE id = 1),
    (
        SELECT kind.id FROM kind
        WHERE kind.capability = handler_limit.name AND kind.name = handler_limit.name AND kind.key = ''
            AND EXISTS (SELECT 1 FROM task WHERE task.kind = kind.id AND task.state = 'ready')
    )
FROM json_each(?1) AS wanted CROSS JOIN handler_limit ON handler_limit.name = wanted.value;

-- name: changed
UPDATE partition_version SET version = version + 1 WHERE id = 1;

-- name: partitions
-- The numbers of the partitions that have a task, one step in their index each, however many tasks there are.
WITH RECURSIVE part (number) AS (
    SELECT min(kind * 8 - priority) FROM task INDEXED BY task_partition WHERE state = 'ready' AND kind < 0
    UNION ALL
    SELECT (
        SELECT min(kind * 8 - priority) FROM task INDEXED BY task_partition
        WHERE state = 'ready' AND kind < 0 AND kind * 8 - priority > part.number
    )
    FROM part WHERE part.number IS NOT NULL
)
SELECT number FROM part WHERE number IS NOT NULL;

-- name: in_partition
SELECT count(*) FROM task INDEXED BY task_partition WHERE state = 'ready' AND kind < 0 AND kind * 8 - priority = ?1;

-- name: heads
-- The first task of each of these partitions. Of the suspects only ?3; NULL lets all be.
SELECT part.value, (
    SELECT seq FROM task INDEXED BY task_partition
    WHERE state = 'ready' AND kind < 0 AND kind * 8 - priority = part.value
        AND (expires_at IS NULL OR expires_at > ?2)
        AND (?3 IS NULL OR interruptions < 2 OR seq = ?3)
    ORDER BY seq LIMIT 1
)
FROM json_each(?1) AS part;

-- name: next_head
-- The task after one in its partition.
SELECT seq FROM task INDEXED BY task_partition
WHERE state = 'ready' AND kind < 0 AND kind * 8 - priority = ?1 AND seq > ?4
    AND (expires_at IS NULL OR expires_at > ?2)
    AND (?3 IS NULL OR interruptions < 2 OR seq = ?3)
ORDER BY seq LIMIT 1;

-- name: waits_since
-- For when waiting counts.
SELECT max(created_at, coalesce(run_at, 0)) FROM task WHERE seq = ?1;

-- name: suspects
SELECT seq, kind FROM task INDEXED BY task_suspect
WHERE state = 'ready' AND interruptions >= 2 AND kind < 0 AND (expires_at IS NULL OR expires_at > ?1)
ORDER BY priority DESC, seq;

-- name: held_by_kind
-- How many tasks of each sorted kind are held. There are only as many as are running now.
SELECT kind, count(*) FROM task INDEXED BY task_held WHERE lease_until > 0 AND kind < 0 GROUP BY kind;

-- name: held_of_kind
SELECT count(*) FROM task INDEXED BY task_held WHERE lease_until > 0 AND kind = ?1;

-- name: kind
SELECT name, key FROM kind WHERE id = ?1;

-- name: kind_find
SELECT id FROM kind WHERE capability = ?1 AND name = ?1 AND key = ?2;

-- name: kind_add
INSERT INTO kind (id, capability, name, key) VALUES (?1, ?2, ?2, ?3);

-- name: to_sort
SELECT task.seq, body.payload FROM task CROSS JOIN body ON body.task = task.seq
WHERE task.kind = ?1 AND task.state = 'ready' LIMIT ?2;

-- name: held_to_sort
-- Tasks that somebody took before they were sorted, or sorted by another key.
SELECT task.seq, kind.name, body.payload
FROM task INDEXED BY task_held
CROSS JOIN kind ON kind.id = task.kind
CROSS JOIN handler_limit AS said ON said.name = kind.capability
CROSS JOIN body ON body.task = task.seq
WHERE task.lease_until > 0 AND said.max_concurrency > 0 AND substr(kind.key, 1, length(said.key) + 1) <> said.key || '=';

-- name: sort
UPDATE task SET kind = ?2 WHERE seq = ?1;

-- name: drop_empty_kinds
-- Sorted kinds that no task needs any more.
DELETE FROM kind WHERE id < 0 AND NOT EXISTS (SELECT 1 FROM task WHERE task.kind = kind.id);

-- name: drop_starts
-- Of all handlers (?1 is what their names begin with), those out of the window.
DELETE FROM pool_start WHERE endpoint > ?1 AND endpoint < ?1 || char(0x10ffff) AND at <= ?2;
