-- A schedule publishes a task again and again. One that is switched off has no next run.
CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    task TEXT NOT NULL,                          -- JSON object of publish() arguments
    every REAL,                                  -- seconds between two runs, or
    cron TEXT,                                   -- five fields, read in
    timezone TEXT NOT NULL,
    missed TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    next_run REAL,
    last_run REAL,
    last_task_id TEXT,
    created_at REAL NOT NULL,
    runs INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT every_or_cron CHECK ((every IS NULL) <> (cron IS NULL)),
    CONSTRAINT not_too_often CHECK (every IS NULL OR every >= 1),
    CONSTRAINT known_missed_policy CHECK (missed = 'skip' OR missed = 'once' OR missed = 'all'),
    CONSTRAINT off_means_no_next_run CHECK (enabled = (next_run IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX schedule_due ON schedule (next_run) WHERE next_run IS NOT NULL;
