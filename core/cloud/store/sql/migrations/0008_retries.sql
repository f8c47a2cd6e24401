-- Failed attempts that wait for their retry: after a clock that was ahead each of them is looked at.
CREATE INDEX task_again ON task (run_at) WHERE state = 'later' AND attempt > 0;
