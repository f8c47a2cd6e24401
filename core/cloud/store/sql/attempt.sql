-- name: insert
INSERT INTO attempt (task, number, worker, started_at, ended_at, outcome, error) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: of_task
SELECT number, worker, started_at, ended_at, outcome, error FROM attempt WHERE task = ?1 ORDER BY number;

-- name: count_of
SELECT count(*) FROM attempt WHERE task = ?1;
