-- Calls that began before an endpoint's settings were replaced, or its holds lifted, say nothing about its health: they have another
-- generation's number.

ALTER TABLE pool_health ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
