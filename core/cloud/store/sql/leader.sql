-- name: lead
-- Taken when free, when its time ran out, or when already ours; no row comes back when it is another's.
INSERT INTO leader (duty, worker, until) VALUES (?1, ?2, ?3)
ON CONFLICT (duty) DO UPDATE SET worker = excluded.worker, until = excluded.until
WHERE leader.worker = excluded.worker OR leader.until <= ?4
RETURNING worker;

-- name: held
-- Asked on the reading connection first: a process that is not the leader takes no write lock to learn it.
SELECT worker, until FROM leader WHERE duty = ?1;

-- name: resign
DELETE FROM leader WHERE duty = ?1 AND worker = ?2;
