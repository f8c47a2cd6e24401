-- Endpoints (or '*', the whole pool) whose next slot a direct call waits for, in some process: tasks leave it to that call, whose caller is
-- there now. A row whose time is over says nothing.
CREATE TABLE pool_awaited (
    endpoint TEXT PRIMARY KEY,
    until REAL NOT NULL
) STRICT, WITHOUT ROWID;
