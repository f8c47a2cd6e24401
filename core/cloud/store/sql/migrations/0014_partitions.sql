-- The field's words: a partition is what shares a limit of its handler, and a call under way is in flight.
DROP INDEX task_lane;
CREATE INDEX task_partition ON task (kind * 8 - priority, seq) WHERE state = 'ready' AND kind < 0;
ALTER TABLE lane_version RENAME TO partition_version;
ALTER TABLE pool_flight RENAME TO pool_in_flight;

-- One trigger for what two did before: each of them was looked at for every task that starts and ends, with limits or without.
DROP TRIGGER task_unsorted;
DROP TRIGGER task_lane_changed;

-- A task with a limit may start that could not before: given back, or let go of by one that ran. What is neither ready nor held goes back
-- to the kind it was published with, so that sorted kinds hold only what needs them.
CREATE TRIGGER task_left_partition AFTER UPDATE OF state ON task
WHEN old.kind < 0 AND new.state <> 'running' AND new.state <> 'acknowledged'
BEGIN
    UPDATE partition_version SET version = version + 1 WHERE id = 1;
    UPDATE task
    SET kind = (
        SELECT base.id
        FROM kind AS mine CROSS JOIN kind AS base
            ON base.capability = mine.capability AND base.name = mine.name AND base.key = ''
        WHERE mine.id = new.kind
    )
    WHERE seq = new.seq AND new.state <> 'ready';
END;
