-- Grows when a task with a limit may start that could not before: sorted, given back, or let go of by one that ran. While it stays the
-- same, and no window opens, whoever found nothing that may start need not look through all lanes again.
CREATE TABLE lane_version (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO lane_version (id, version) VALUES (1, 0);

CREATE TRIGGER task_lane_changed AFTER UPDATE OF state ON task
WHEN old.kind < 0 AND new.state <> 'running' AND new.state <> 'acknowledged'
BEGIN
    UPDATE lane_version SET version = version + 1 WHERE id = 1;
END;
