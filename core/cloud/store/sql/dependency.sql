-- name: parents_by_id
-- The tasks a new one wants to depend on.
SELECT task.id, task.seq, task.state FROM json_each(?1) AS wanted CROSS JOIN task ON task.id = wanted.value;

-- name: insert
INSERT INTO dependency (parent, child, position) VALUES (?, ?, ?);

-- name: free
-- A parent completed: each child still blocked has one blocker less and starts its wait for time or turn at zero.
-- `+state` keeps the planner on the few children instead of all blocked tasks.
UPDATE task
SET blockers = blockers - 1,
    state = CASE WHEN blockers > 1 THEN 'blocked' WHEN run_at > ?2 THEN 'later' ELSE 'ready' END
WHERE +state = 'blocked' AND seq IN (SELECT child FROM dependency WHERE parent = ?1);

-- name: cancel_dependents
-- Every task below one that will not complete, as far as each asks for it; one statement whatever the depth.
-- CROSS JOIN makes SQLite walk from parent to child; left to itself it looks through all blocked tasks at each step.
WITH RECURSIVE doomed (seq) AS (
    SELECT child.seq FROM dependency CROSS JOIN task AS child ON child.seq = dependency.child
    WHERE dependency.parent = ?1 AND child.state = 'blocked' AND child.on_dependency_failure = 'cancel'
    UNION
    SELECT child.seq FROM doomed
    CROSS JOIN dependency ON dependency.parent = doomed.seq
    CROSS JOIN task AS child ON child.seq = dependency.child
    WHERE child.state = 'blocked' AND child.on_dependency_failure = 'cancel'
)
UPDATE task SET state = 'cancelled', ended_at = ?2 WHERE seq IN (SELECT seq FROM doomed)
RETURNING seq;

-- name: blockers
-- Counted anew when a task is revived.
SELECT count(*) FROM dependency CROSS JOIN task AS parent ON parent.seq = dependency.parent
WHERE dependency.child = ?1 AND parent.state <> 'completed';

-- name: of_tasks
-- The dependencies of several tasks, each in the order of its depends_on.
SELECT dependency.child, parent.id, parent.state
FROM json_each(?1) AS wanted
CROSS JOIN dependency ON dependency.child = wanted.value
CROSS JOIN task AS parent ON parent.seq = dependency.parent
ORDER BY dependency.child, dependency.position;
