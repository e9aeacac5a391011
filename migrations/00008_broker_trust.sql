-- Whom each guest knows the broker by, as it reported it last: names of authorities between spaces.

-- +goose Up

ALTER TABLE guests ADD COLUMN broker_trust TEXT NOT NULL DEFAULT '';

-- +goose Down

ALTER TABLE guests DROP COLUMN broker_trust;
