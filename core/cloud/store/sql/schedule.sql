-- name: add
-- Nothing comes back when the name is taken.
INSERT INTO schedule (name, task, every, cron, timezone, missed, enabled, next_run, last_run, last_task_id, created_at, runs, rewinds)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO NOTHING
RETURNING name;

-- name: get
SELECT name, task, every, cron, timezone, missed, enabled, next_run, last_run, last_task_id, created_at, runs, rewinds
FROM schedule WHERE name = ?1;

-- name: list
-- By name; the condition lets the primary key serve the order.
SELECT name, task, every, cron, timezone, missed, enabled, next_run, last_run, last_task_id, created_at, runs, rewinds
FROM schedule WHERE name >= '' ORDER BY name;

-- name: due
SELECT name, task, every, cron, timezone, missed, enabled, next_run, last_run, last_task_id, created_at, runs, rewinds
FROM schedule WHERE next_run <= ?1 ORDER BY next_run, name;

-- name: next_run
-- Asked at each look of the upkeep: one step in the index.
SELECT min(next_run) FROM schedule WHERE next_run IS NOT NULL;

-- name: replace
-- Only ever in the transaction that read the row and found it unchanged.
UPDATE schedule
SET task = ?2, every = ?3, cron = ?4, timezone = ?5, missed = ?6, enabled = ?7, next_run = ?8, last_run = ?9,
    last_task_id = ?10, created_at = ?11, runs = ?12, rewinds = ?13
WHERE name = ?1;

-- name: remove
DELETE FROM schedule WHERE name = ?1 RETURNING name;
