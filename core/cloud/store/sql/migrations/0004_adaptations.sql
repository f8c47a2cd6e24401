-- What an endpoint's requests are changed by, because it refuses them otherwise: JSON, a list of [how, field, to].

ALTER TABLE pool_endpoint ADD COLUMN adapted TEXT NOT NULL DEFAULT '[]';
