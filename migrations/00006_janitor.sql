-- What the janitor found where the cloud and the rows disagree, and leases of recurring work that one process does.

-- +goose Up

CREATE TABLE findings (
    id          TEXT PRIMARY KEY,
    problem     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    owner_id    TEXT NOT NULL DEFAULT '',
    instance_id TEXT NOT NULL DEFAULT '',
    project_id  TEXT NOT NULL DEFAULT '',
    first_seen  BIGINT NOT NULL,
    -- 0 while it is young: nobody is shown it, and nothing is done about it.
    reported_at BIGINT NOT NULL DEFAULT 0,
    delete_at   BIGINT NOT NULL DEFAULT 0,
    delete_by   TEXT NOT NULL DEFAULT '',
    failure     TEXT NOT NULL DEFAULT ''
);
CREATE INDEX findings_reported ON findings (id) WHERE reported_at > 0;
CREATE INDEX findings_to_delete ON findings (id) WHERE delete_at > 0;

CREATE TABLE leases (
    name    TEXT PRIMARY KEY,
    holder  TEXT NOT NULL DEFAULT '',
    until   BIGINT NOT NULL DEFAULT 0,
    -- When the work was last done to its end.
    done_at BIGINT NOT NULL DEFAULT 0
);

-- +goose Down

DROP TABLE leases;
DROP TABLE findings;
