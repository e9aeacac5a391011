-- The whole first schema, the same on PostgreSQL and SQLite. Ids are UUIDs as text, instants BIGINT microseconds with 0
-- for "not yet", JSON is TEXT. Indexes begin with what a list is asked by and end with the id by which it is paged. Where
-- two indexes of a table would begin with the same column, one has an expression of its own: a planner that guesses that
-- there are few rows takes either, and then reads many that it throws away.

-- +goose Up

CREATE TABLE datastores (
    id                 TEXT PRIMARY KEY,
    name               TEXT NOT NULL UNIQUE,
    default_version_id TEXT NOT NULL DEFAULT ''
);

CREATE TABLE datastore_versions (
    id           TEXT PRIMARY KEY,
    datastore_id TEXT NOT NULL REFERENCES datastores (id),
    name         TEXT NOT NULL,
    number       TEXT NOT NULL DEFAULT '',
    manager      TEXT NOT NULL DEFAULT '',
    active       BOOLEAN NOT NULL DEFAULT TRUE,
    image        TEXT NOT NULL DEFAULT '',
    image_tags   TEXT,
    packages     TEXT,
    created_at   BIGINT NOT NULL
);
CREATE INDEX datastore_versions_by_datastore ON datastore_versions (datastore_id, name);

CREATE TABLE catalogs (
    region       TEXT PRIMARY KEY,
    flavors      TEXT,
    volume_types TEXT,
    networks     TEXT,
    zones        TEXT,
    updated_at   BIGINT NOT NULL
);

-- A row per project, only to be locked while its quota is counted.
CREATE TABLE projects (
    id TEXT PRIMARY KEY
);

CREATE TABLE quotas (
    project_id TEXT NOT NULL,
    resource   TEXT NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource)
);

CREATE TABLE configurations (
    id                   TEXT PRIMARY KEY,
    project_id           TEXT NOT NULL,
    name                 TEXT NOT NULL,
    description          TEXT,
    datastore_version_id TEXT NOT NULL REFERENCES datastore_versions (id),
    parameters           TEXT,
    secret_names         TEXT,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    deleted_at           BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX configurations_by_project ON configurations (project_id, id) WHERE deleted_at = 0;
CREATE INDEX configurations_live ON configurations (id) WHERE deleted_at = 0;
CREATE INDEX configurations_deleted ON configurations (deleted_at) WHERE deleted_at > 0;

-- "groups" is a reserved word in some dialects.
CREATE TABLE instance_groups (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    kind       TEXT NOT NULL,
    epoch      BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    deleted_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX instance_groups_deleted ON instance_groups (deleted_at) WHERE deleted_at > 0;

CREATE TABLE instances (
    id                   TEXT PRIMARY KEY,
    project_id           TEXT NOT NULL,
    group_id             TEXT NOT NULL REFERENCES instance_groups (id),
    cluster_id           TEXT NOT NULL DEFAULT '',
    replica_of           TEXT NOT NULL DEFAULT '',
    name                 TEXT NOT NULL,
    datastore_version_id TEXT NOT NULL REFERENCES datastore_versions (id),
    flavor_id            TEXT NOT NULL DEFAULT '',
    volume_size          BIGINT NOT NULL DEFAULT 0,
    -- What quota counts: the larger of the volume that is wished and the one that is there.
    volume_charged       BIGINT NOT NULL DEFAULT 0,
    volume_type          TEXT NOT NULL DEFAULT '',
    configuration_id     TEXT NOT NULL DEFAULT '',
    region               TEXT NOT NULL DEFAULT '',
    zone                 TEXT NOT NULL DEFAULT '',
    locality             TEXT NOT NULL DEFAULT '',
    nic                  TEXT,
    access               TEXT,
    addresses            TEXT,
    task                 TEXT NOT NULL,
    fault                TEXT,
    deletion_protection  BOOLEAN NOT NULL DEFAULT FALSE,
    root_enabled_at      BIGINT NOT NULL DEFAULT 0,
    root_enabled_by      TEXT NOT NULL DEFAULT '',
    applied              TEXT,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    deleted_at           BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX instances_by_project ON instances (project_id, id) WHERE deleted_at = 0;
CREATE INDEX instances_by_cluster_and_project ON instances ((cluster_id || '/' || project_id), id) WHERE deleted_at = 0;
CREATE INDEX instances_quota ON instances (project_id, region, flavor_id, volume_charged) WHERE deleted_at = 0;
CREATE INDEX instances_by_configuration ON instances (configuration_id, id)
    WHERE deleted_at = 0 AND configuration_id <> '';
CREATE INDEX instances_by_master ON instances (replica_of, id) WHERE deleted_at = 0 AND replica_of <> '';
CREATE INDEX instances_by_group ON instances (group_id, id);
CREATE INDEX instances_deleted ON instances (deleted_at) WHERE deleted_at > 0;

CREATE TABLE guests (
    id               TEXT PRIMARY KEY,
    instance_id      TEXT NOT NULL REFERENCES instances (id),
    group_id         TEXT NOT NULL DEFAULT '',
    project_id       TEXT NOT NULL DEFAULT '',
    queue            TEXT NOT NULL DEFAULT '',
    server_id        TEXT NOT NULL DEFAULT '',
    volume_id        TEXT NOT NULL DEFAULT '',
    port_id          TEXT NOT NULL DEFAULT '',
    address          TEXT NOT NULL DEFAULT '',
    status           TEXT NOT NULL DEFAULT '',
    status_cause     TEXT NOT NULL DEFAULT '',
    status_at        BIGINT NOT NULL DEFAULT 0,
    boot_id          TEXT NOT NULL DEFAULT '',
    -- The boots before: a report of one that arrives late must not pass for a new boot's.
    previous_boot_id TEXT NOT NULL DEFAULT '',
    sequence         BIGINT NOT NULL DEFAULT 0,
    public_key       BYTEA,
    agent_version    TEXT NOT NULL DEFAULT '',
    observed         TEXT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    deleted_at       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX guests_by_instance ON guests (instance_id, id);
CREATE INDEX guests_live ON guests (id) WHERE deleted_at = 0;
CREATE INDEX guests_deleted ON guests (deleted_at) WHERE deleted_at > 0;

-- Written every few seconds per guest: no index but the key, no column that any other table needs.
CREATE TABLE heartbeats (
    guest_id     TEXT PRIMARY KEY,
    boot_id      TEXT NOT NULL,
    sequence     BIGINT NOT NULL,
    seen_at      BIGINT NOT NULL,
    volume_used  BIGINT NOT NULL DEFAULT 0,
    volume_total BIGINT NOT NULL DEFAULT 0,
    metrics      TEXT NOT NULL DEFAULT ''
);

CREATE TABLE operations (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL,
    project_id    TEXT NOT NULL DEFAULT '',
    resource_type TEXT NOT NULL DEFAULT '',
    resource_id   TEXT NOT NULL DEFAULT '',
    group_id      TEXT NOT NULL DEFAULT '',
    parent_id     TEXT NOT NULL DEFAULT '',
    status        TEXT NOT NULL,
    step          TEXT NOT NULL DEFAULT '',
    step_number   BIGINT NOT NULL DEFAULT 0,
    step_total    BIGINT NOT NULL DEFAULT 0,
    state         TEXT,
    attempt       BIGINT NOT NULL DEFAULT 0,
    step_since    BIGINT NOT NULL DEFAULT 0,
    progress      TEXT NOT NULL DEFAULT '',
    wake_at       BIGINT NOT NULL DEFAULT 0,
    lease_owner   TEXT NOT NULL DEFAULT '',
    lease_until   BIGINT NOT NULL DEFAULT 0,
    lease_epoch   BIGINT NOT NULL DEFAULT 0,
    superseded_by TEXT NOT NULL DEFAULT '',
    parked_by     TEXT NOT NULL DEFAULT '',
    cancel        BOOLEAN NOT NULL DEFAULT FALSE,
    child_failure TEXT NOT NULL DEFAULT '',
    failure       TEXT,
    request_id    TEXT NOT NULL DEFAULT '',
    trace_parent  TEXT NOT NULL DEFAULT '',
    actor         TEXT NOT NULL DEFAULT '',
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    ended_at      BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX operations_due ON operations (wake_at) WHERE ended_at = 0 AND parked_by = '';
CREATE INDEX operations_leased ON operations (lease_until) WHERE ended_at = 0 AND lease_owner <> '';
CREATE INDEX operations_parked ON operations (parked_by) WHERE parked_by <> '';
CREATE INDEX operations_by_project ON operations (project_id, id);
CREATE INDEX operations_by_status_and_project ON operations ((status || '/' || project_id), id);
CREATE INDEX operations_by_resource ON operations (resource_id, id);
CREATE INDEX operations_by_status_and_resource ON operations ((status || '@' || resource_id), id);
CREATE INDEX operations_by_status ON operations (status, id);
CREATE INDEX operations_by_parent ON operations (parent_id, id) WHERE parent_id <> '';
CREATE INDEX operations_ended ON operations (ended_at) WHERE ended_at > 0;

CREATE TABLE operation_steps (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    number       BIGINT NOT NULL,
    kind         TEXT NOT NULL DEFAULT '',
    step         TEXT NOT NULL DEFAULT '',
    attempt      BIGINT NOT NULL DEFAULT 0,
    started_at   BIGINT NOT NULL DEFAULT 0,
    ended_at     BIGINT NOT NULL DEFAULT 0,
    outcome      TEXT NOT NULL DEFAULT '',
    message      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (operation_id, number)
);

CREATE TABLE operation_locks (
    resource_id  TEXT PRIMARY KEY,
    operation_id TEXT NOT NULL REFERENCES operations (id),
    parked_id    TEXT NOT NULL DEFAULT ''
);
CREATE INDEX operation_locks_by_operation ON operation_locks (operation_id);
CREATE INDEX operation_locks_parked ON operation_locks (parked_id) WHERE parked_id <> '';

CREATE TABLE events (
    id             TEXT PRIMARY KEY,
    project_id     TEXT NOT NULL DEFAULT '',
    resource_type  TEXT NOT NULL DEFAULT '',
    resource_id    TEXT NOT NULL DEFAULT '',
    operation_id   TEXT NOT NULL DEFAULT '',
    kind           TEXT NOT NULL,
    message        TEXT NOT NULL DEFAULT '',
    actor          TEXT NOT NULL DEFAULT '',
    request_id     TEXT NOT NULL DEFAULT '',
    source_address TEXT NOT NULL DEFAULT '',
    -- The guest and the id that it gave its event, so that a repeated report records it once.
    reported_as    TEXT NOT NULL DEFAULT '',
    before         TEXT,
    after          TEXT,
    created_at     BIGINT NOT NULL
);
CREATE INDEX events_by_project ON events (project_id, id);
CREATE INDEX events_by_resource ON events (resource_id, id);
CREATE INDEX events_created ON events (created_at);
CREATE UNIQUE INDEX events_reported ON events (reported_as) WHERE reported_as <> '';

CREATE TABLE secrets (
    id         TEXT PRIMARY KEY,
    owner_id   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX secrets_by_owner ON secrets (owner_id, kind, id);
CREATE INDEX secrets_by_key ON secrets (key_id, id);

CREATE TABLE idempotency_keys (
    project_id TEXT NOT NULL,
    key        TEXT NOT NULL,
    hash       TEXT NOT NULL,
    status     BIGINT NOT NULL DEFAULT 0,
    header     TEXT,
    body       TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

-- +goose Down

DROP TABLE idempotency_keys;
DROP TABLE secrets;
DROP TABLE events;
DROP TABLE operation_locks;
DROP TABLE operation_steps;
DROP TABLE operations;
DROP TABLE heartbeats;
DROP TABLE guests;
DROP TABLE instances;
DROP TABLE instance_groups;
DROP TABLE configurations;
DROP TABLE quotas;
DROP TABLE projects;
DROP TABLE catalogs;
DROP TABLE datastore_versions;
DROP TABLE datastores;
