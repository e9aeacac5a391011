-- What recurring tasks look for among all instances: those with a standby, and those of which a guest missed a change. The
-- conditions are those of the queries, word for word.

-- +goose Up

CREATE INDEX instances_protected ON instances (id) WHERE deleted_at = 0 AND high_availability IS NOT NULL;
CREATE INDEX instances_behind ON instances (id) WHERE deleted_at = 0 AND applied LIKE '%"behind":[%';

-- +goose Down

DROP INDEX instances_behind;
DROP INDEX instances_protected;
