-- name: version
-- What processes compare to learn that settings or holds were changed elsewhere.
SELECT version FROM pool_version WHERE id = 1;

-- name: bump
-- Also the number of an endpoint's new generation.
UPDATE pool_version SET version = version + 1 WHERE id = 1 RETURNING version;

-- name: save_endpoint
-- Replacing keeps the position, so that the order stays that of the first adding; what was learned of the old one is forgotten.
INSERT INTO pool_endpoint (name, position, settings, needs_key)
VALUES (:name, (SELECT coalesce(max(position), 0) + 1 FROM pool_endpoint), :settings, :needs_key)
ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, needs_key = excluded.needs_key, adapted = '[]';

-- name: adapted
SELECT settings, adapted FROM pool_endpoint WHERE name = ?;

-- name: save_adapted
UPDATE pool_endpoint SET adapted = ? WHERE name = ?;

-- name: remove_endpoint
DELETE FROM pool_endpoint WHERE name = ? RETURNING name;

-- name: endpoints
-- A handful of rows; sorted by the caller.
SELECT position, name, settings, needs_key, adapted FROM pool_endpoint WHERE name > '';

-- name: clean_health
-- New settings and resets start without a hold.
INSERT OR REPLACE INTO pool_health (endpoint, generation) VALUES (?, ?);

-- name: health
SELECT failures, kind, hold, held_from, held_until, probe, probe_until, generation FROM pool_health WHERE endpoint = ?;

-- name: save_health
UPDATE pool_health
SET failures = ?, kind = ?, hold = ?, held_from = ?, held_until = ?, probe = ?, probe_until = ?
WHERE endpoint = ?;

-- name: ring
-- The newest start, and the one `limit` places before the next: the two facts that decide.
SELECT newest.seq, newest.at, oldest.at
FROM (SELECT seq, at FROM pool_start WHERE endpoint = :endpoint ORDER BY seq DESC LIMIT 1) AS newest
LEFT JOIN pool_start AS oldest ON oldest.endpoint = :endpoint AND oldest.seq = newest.seq - :limit + 1;

-- name: await
-- A direct call waits for the next slot.
INSERT INTO pool_awaited (endpoint, until) VALUES (?1, ?2)
ON CONFLICT (endpoint) DO UPDATE SET until = excluded.until;

-- name: await_no_longer
-- Its limit is another now: who was told when its next slot opens was told by the old one.
DELETE FROM pool_awaited WHERE endpoint = ?;

-- name: awaited
-- Until when tasks leave this endpoint, or the pool as a whole, to direct calls. A time further off than any wait is of a clock
-- that was put back.
SELECT max(until) FROM pool_awaited WHERE endpoint IN (?1, '*') AND until <= ?2;

-- name: start
INSERT INTO pool_start (endpoint, seq, at, token) VALUES (?, ?, ?, ?);

-- name: take_back_start
-- Its call never left. What leaves a gap, which the next two close: the ring is addressed by `seq`.
DELETE FROM pool_start WHERE endpoint = ? AND token = ? RETURNING seq;

-- name: lift_starts
-- Those after the gap, out of each other's way.
UPDATE pool_start SET seq = -seq WHERE endpoint = ? AND seq > ?;

-- name: put_starts_down
UPDATE pool_start SET seq = -seq - 1 WHERE endpoint = ? AND seq < 0;

-- name: drop_starts
-- Of the oldest two those out of the window: no call pays for a backlog. The newest always stays, because it carries `seq`.
DELETE FROM pool_start
WHERE endpoint = :endpoint AND seq IN (
    SELECT seq FROM (SELECT seq, at FROM pool_start WHERE endpoint = :endpoint ORDER BY seq LIMIT 2)
    WHERE at <= :before AND seq < :newest
);

-- name: pull_back_starts
-- The wall clock was put back: starts in the future count as having happened now.
UPDATE pool_start SET at = :now WHERE endpoint = :endpoint AND at > :now;

-- name: next_started
-- The names that have starts, one after the other: a step in the index each, however many starts there are.
SELECT min(endpoint) FROM pool_start WHERE endpoint > ?;

-- name: forget_starts
DELETE FROM pool_start WHERE endpoint = ? AND at <= ?;

-- name: next_spender
SELECT min(endpoint) FROM pool_spending WHERE endpoint > ?;

-- name: forget_spending
DELETE FROM pool_spending WHERE endpoint = ? AND day < ?;

-- name: starts_since
SELECT count(*) FROM pool_start WHERE endpoint = ? AND at > ?;

-- name: in_flight
SELECT count(*) FROM pool_in_flight WHERE endpoint = ? AND expires_at > ?;

-- name: begin_in_flight
INSERT INTO pool_in_flight (endpoint, token, expires_at) VALUES (?, ?, ?);

-- name: end_in_flight
DELETE FROM pool_in_flight WHERE endpoint = ? AND token = ?;

-- name: drop_in_flight
-- Those of processes that died.
DELETE FROM pool_in_flight WHERE endpoint = ? AND expires_at <= ?;

-- name: spending
SELECT requests, tokens, cost FROM pool_spending WHERE endpoint = ? AND day = ?;

-- name: spend
-- Sums stop at 10^18: beyond 64 bits SQLite would make a number a float, which the table refuses.
INSERT INTO pool_spending (endpoint, day, requests, tokens, cost) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (endpoint, day) DO UPDATE
SET requests = requests + excluded.requests,
    tokens = min(tokens + excluded.tokens, 1000000000000000000),
    cost = min(cost + excluded.cost, 1e18);

-- name: unspend
-- A call that was counted never left.
UPDATE pool_spending SET requests = requests - 1 WHERE endpoint = ? AND day = ? AND requests > 0;

-- name: add_total
-- Sums add up in any order; of the errors the newest stays. Nothing for an endpoint that was removed meanwhile.
INSERT INTO pool_total (endpoint, seconds, tokens_in, tokens_out, cost, last_error, last_error_at, last_used_at)
SELECT name, :seconds, :tokens_in, :tokens_out, :cost, :last_error, :last_error_at, :last_used_at
FROM pool_endpoint WHERE name = :endpoint
ON CONFLICT (endpoint) DO UPDATE SET
    seconds = seconds + excluded.seconds,
    tokens_in = min(tokens_in + excluded.tokens_in, 1000000000000000000),
    tokens_out = min(tokens_out + excluded.tokens_out, 1000000000000000000),
    cost = min(cost + excluded.cost, 1e18),
    last_error = CASE WHEN excluded.last_error_at > last_error_at THEN excluded.last_error ELSE last_error END,
    last_error_at = max(last_error_at, excluded.last_error_at),
    last_used_at = max(last_used_at, excluded.last_used_at)
RETURNING 1;

-- name: add_outcome
INSERT INTO pool_outcome (endpoint, outcome, count) VALUES (?, ?, ?)
ON CONFLICT (endpoint, outcome) DO UPDATE SET count = count + excluded.count;

-- name: add_latency
INSERT INTO pool_latency (endpoint, bucket, count) VALUES (?, ?, ?)
ON CONFLICT (endpoint, bucket) DO UPDATE SET count = count + excluded.count;

-- name: total
SELECT seconds, tokens_in, tokens_out, cost, last_error, last_error_at, last_used_at FROM pool_total WHERE endpoint = ?;

-- name: outcomes
SELECT outcome, count FROM pool_outcome WHERE endpoint = ?;

-- name: latencies
SELECT bucket, count FROM pool_latency WHERE endpoint = ?;

-- name: clear_total
DELETE FROM pool_total WHERE endpoint = ?;

-- name: clear_outcomes
DELETE FROM pool_outcome WHERE endpoint = ?;

-- name: clear_latencies
DELETE FROM pool_latency WHERE endpoint = ?;

-- name: newest_reservation
SELECT max(at) FROM pool_reservation WHERE endpoint = ?;

-- name: reserved
-- Of all that stand in the table: those that are over are dropped before.
SELECT tokens FROM pool_reserved WHERE endpoint = ?;

-- name: reserved_under_way
SELECT coalesce(sum(tokens), 0) FROM pool_reservation WHERE endpoint = ? AND under_way = 1 AND at > ?;

-- name: reserved_since
SELECT coalesce(sum(tokens), 0) FROM pool_reservation WHERE endpoint = ? AND at > ?;

-- name: reservations
-- Read only when there are too few tokens, as far as they tell when there will be enough.
SELECT at, tokens, under_way FROM pool_reservation WHERE endpoint = ? AND at > ? ORDER BY at;

-- name: reserve
INSERT INTO pool_reservation (endpoint, at, token, tokens) VALUES (?, ?, ?, ?);

-- name: correct
-- Nothing for one that is out of the window, or was given without asking the database.
UPDATE pool_reservation SET tokens = coalesce(?, tokens), under_way = 0 WHERE endpoint = ? AND token = ?;

-- name: drop_reservations
DELETE FROM pool_reservation WHERE endpoint = ? AND at <= ?;

-- name: pull_back_reservations
-- The wall clock was put back: what was reserved in the future counts as reserved now.
UPDATE pool_reservation SET at = :now WHERE endpoint = :endpoint AND at > :now;

-- name: next_reserver
SELECT min(endpoint) FROM pool_reservation WHERE endpoint > ?;
