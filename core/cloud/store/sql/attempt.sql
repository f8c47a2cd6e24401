-- name: insert
INSERT INTO attempt (task, number, worker, started_at, ended_at, outcome, error) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: shift
-- What a clock that was ahead wrote down, as it would have been without. Binds task, number, seconds.
UPDATE attempt SET started_at = started_at - ?3, ended_at = ended_at - ?3 WHERE task = ?1 AND number = ?2;

-- name: of_task
SELECT number, worker, started_at, ended_at, outcome, error FROM attempt WHERE task = ?1 ORDER BY number;

-- name: count_of
SELECT count(*) FROM attempt WHERE task = ?1;
