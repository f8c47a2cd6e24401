-- How often the clock was put back under a schedule: the runs of the hours that come again are runs of their own.
ALTER TABLE schedule ADD COLUMN rewinds INTEGER NOT NULL DEFAULT 0;
