-- Tokens that calls of the last minute reserved or took, for endpoints that limit them. Like starts they outlive their endpoint for as
-- long as they count. A call that is under way may end with fewer than it reserved.
CREATE TABLE pool_reservation (
    endpoint TEXT NOT NULL,
    at REAL NOT NULL,
    token INTEGER NOT NULL,
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    under_way INTEGER NOT NULL DEFAULT 1 CHECK (under_way IN (0, 1)),
    PRIMARY KEY (endpoint, at, token)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX pool_reservation_token ON pool_reservation (endpoint, token);

-- Few: those of calls that run now, and of processes that died within the minute.
CREATE INDEX pool_reservation_under_way ON pool_reservation (endpoint, at, tokens) WHERE under_way = 1;

-- The sum of what stands in the table, so that a call need not add up the minute's.
CREATE TABLE pool_reserved (
    endpoint TEXT PRIMARY KEY,
    tokens INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER pool_reservation_made AFTER INSERT ON pool_reservation BEGIN
    INSERT INTO pool_reserved (endpoint, tokens) VALUES (NEW.endpoint, NEW.tokens)
    ON CONFLICT (endpoint) DO UPDATE SET tokens = tokens + excluded.tokens;
END;

CREATE TRIGGER pool_reservation_corrected AFTER UPDATE OF tokens ON pool_reservation BEGIN
    UPDATE pool_reserved SET tokens = tokens + NEW.tokens - OLD.tokens WHERE endpoint = NEW.endpoint;
END;

CREATE TRIGGER pool_reservation_over AFTER DELETE ON pool_reservation BEGIN
    UPDATE pool_reserved SET tokens = tokens - OLD.tokens WHERE endpoint = OLD.endpoint;
END;
