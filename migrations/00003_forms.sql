-- The forms that an instance can have beside the single one: a hot standby, replicas, clusters; and what belongs to them.
-- Booleans and texts have a default, so that rows of before are single instances.

-- +goose Up

ALTER TABLE instances ADD COLUMN high_availability TEXT;
ALTER TABLE instances ADD COLUMN persistence TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN profile TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN tls TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN stopped BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE instances ADD COLUMN shard_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN primary_guest_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN address_id TEXT NOT NULL DEFAULT '';
ALTER TABLE guests ADD COLUMN peers TEXT;
CREATE INDEX guests_by_group ON guests (group_id, id) WHERE deleted_at = 0;

CREATE TABLE clusters (
    id                   TEXT PRIMARY KEY,
    project_id           TEXT NOT NULL,
    group_id             TEXT NOT NULL REFERENCES instance_groups (id),
    name                 TEXT NOT NULL,
    datastore_version_id TEXT NOT NULL REFERENCES datastore_versions (id),
    configuration_id     TEXT NOT NULL DEFAULT '',
    locality             TEXT NOT NULL DEFAULT '',
    replicas_per_shard   BIGINT NOT NULL DEFAULT 0,
    task                 TEXT NOT NULL,
    fault                TEXT,
    health               TEXT,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    deleted_at           BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX clusters_by_project ON clusters (project_id, id) WHERE deleted_at = 0;
CREATE INDEX clusters_by_group ON clusters (group_id);
CREATE INDEX clusters_deleted ON clusters (deleted_at) WHERE deleted_at > 0;
CREATE INDEX instances_members ON instances (cluster_id, id) WHERE deleted_at = 0 AND cluster_id <> '';

CREATE TABLE database_users (
    group_id   TEXT NOT NULL REFERENCES instance_groups (id),
    name       TEXT NOT NULL,
    grants     TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, name)
);

-- +goose Down

DROP TABLE database_users;
DROP INDEX instances_members;
DROP TABLE clusters;
DROP INDEX guests_by_group;
ALTER TABLE guests DROP COLUMN peers;
ALTER TABLE instances DROP COLUMN address_id;
ALTER TABLE instances DROP COLUMN primary_guest_id;
ALTER TABLE instances DROP COLUMN shard_id;
ALTER TABLE instances DROP COLUMN stopped;
ALTER TABLE instances DROP COLUMN tls;
ALTER TABLE instances DROP COLUMN profile;
ALTER TABLE instances DROP COLUMN persistence;
ALTER TABLE instances DROP COLUMN high_availability;
