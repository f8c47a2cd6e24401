-- name: register
INSERT INTO worker (worker, pid, host, wake_port, capabilities, started_at, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (worker) DO UPDATE SET
    pid = excluded.pid, host = excluded.host, wake_port = excluded.wake_port, capabilities = excluded.capabilities,
    seen_at = excluded.seen_at;

-- name: forget
DELETE FROM worker WHERE worker = ?1;

-- name: forget_dead
-- Rows of processes that died long ago; the table has a row a process, so reading all of it is cheap.
DELETE FROM worker WHERE seen_at < ?1;

-- name: alive
SELECT worker, pid, host, wake_port, capabilities, started_at, seen_at FROM worker WHERE seen_at >= ?1 ORDER BY started_at, worker;

-- name: able
-- Live processes that could run a kind of task.
SELECT count(*) FROM worker
WHERE seen_at >= ?1 AND EXISTS (
    SELECT 1 FROM json_each(worker.capabilities) AS has
    WHERE has.value = (SELECT capability FROM kind WHERE id = ?2)
);
