-- Whose start a row is: the call's token, so that one that never left can give its slot back. NULL for those of before.

ALTER TABLE pool_start ADD COLUMN token INTEGER;
