-- +goose Up
-- Written for SQLite and PostgreSQL alike: BYTEA keeps blobs as they are in SQLite, times are nanoseconds since 1970
-- (0: never), booleans are 0 and 1.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- counters holds the resource version, which orders every change of the fleet.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('resource_version', 0);

CREATE TABLE resources (
    kind       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    generation BIGINT NOT NULL,
    version    BIGINT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    body       BYTEA  NOT NULL,
    PRIMARY KEY (kind, name)
);

-- tombstones tell watchers of deletions; old ones are forgotten, and meta remembers up to which version.
CREATE TABLE tombstones (
    version BIGINT NOT NULL PRIMARY KEY,
    kind    TEXT   NOT NULL,
    name    TEXT   NOT NULL
);

CREATE TABLE join_tokens (
    id               TEXT    NOT NULL PRIMARY KEY,
    secret_hash      BYTEA   NOT NULL,
    region           TEXT    NOT NULL,
    site             TEXT    NOT NULL,
    uses             BIGINT  NOT NULL,
    used             BIGINT  NOT NULL,
    expires_at       BIGINT  NOT NULL,
    require_approval INTEGER NOT NULL,
    revoked          INTEGER NOT NULL,
    created_at       BIGINT  NOT NULL
);

-- operator_tokens keeps revoked ones, so that whoever still brings one is told; their names are free again.
CREATE TABLE operator_tokens (
    secret_hash BYTEA  NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    revoked_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX operator_tokens_good ON operator_tokens (name) WHERE revoked_at = 0;

CREATE TABLE nodes (
    id                     TEXT    NOT NULL PRIMARY KEY,
    name                   TEXT    NOT NULL UNIQUE,
    version                BIGINT  NOT NULL UNIQUE,
    region                 TEXT    NOT NULL,
    site                   TEXT    NOT NULL,
    token_id               TEXT    NOT NULL,
    key_hash               BYTEA   NOT NULL,
    state                  TEXT    NOT NULL,
    revoked_reason         TEXT    NOT NULL,
    labels                 BYTEA   NOT NULL,
    protocol               BIGINT  NOT NULL,
    certificate_serial     TEXT    NOT NULL,
    certificate_expires_at BIGINT  NOT NULL,
    connection             TEXT    NOT NULL,
    transport              TEXT    NOT NULL,
    last_seen_at           BIGINT  NOT NULL,
    report                 BYTEA   NOT NULL,
    ahead                  BIGINT  NOT NULL, -- generation that the node has of its desired state when it is above ours
    created_at             BIGINT  NOT NULL,
    updated_at             BIGINT  NOT NULL,
    UNIQUE (token_id, key_hash)
);

-- refused_keys are the keys of machines that came in by a token, were revoked and deleted: the token brings them in no
-- more. They go with their token, and when it is revoked itself.
CREATE TABLE refused_keys (
    token_id TEXT  NOT NULL REFERENCES join_tokens (id) ON DELETE CASCADE,
    key_hash BYTEA NOT NULL,
    node     TEXT  NOT NULL,
    reason   TEXT  NOT NULL,
    PRIMARY KEY (token_id, key_hash)
);

CREATE TABLE desired (
    node_id    TEXT   NOT NULL PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    digest     TEXT   NOT NULL,
    state      BYTEA  NOT NULL
);

-- releases are the rollouts that once were complete: what a failed rollout goes back to.
CREATE TABLE releases (
    rollout      TEXT   NOT NULL,
    sequence     BIGINT NOT NULL,
    model        TEXT   NOT NULL,
    version      TEXT   NOT NULL,
    digest       TEXT   NOT NULL,
    region       TEXT   NOT NULL,
    site         TEXT   NOT NULL,
    millionths   BIGINT NOT NULL,
    retry        BIGINT NOT NULL,
    completed_at BIGINT NOT NULL,
    PRIMARY KEY (rollout, sequence)
);

-- deliveries is how far each node's aggregates are taken in; rejected counts those that made no sense. Deliveries and
-- totals stay when the node is deleted, since the requests were answered: hence its name and place stand here too, and
-- its id may be that of no node.
CREATE TABLE deliveries (
    node_id  TEXT   NOT NULL PRIMARY KEY,
    node     TEXT   NOT NULL,
    region   TEXT   NOT NULL,
    site     TEXT   NOT NULL,
    sequence BIGINT NOT NULL,
    rejected BIGINT NOT NULL
);

CREATE TABLE totals (
    node_id TEXT   NOT NULL, -- as in deliveries
    model   TEXT   NOT NULL,
    version TEXT   NOT NULL,
    role    BIGINT NOT NULL,
    totals  BYTEA  NOT NULL,
    PRIMARY KEY (node_id, model, version, role)
);

-- +goose Down
DROP TABLE totals;
DROP TABLE deliveries;
DROP TABLE releases;
DROP TABLE desired;
DROP TABLE refused_keys;
DROP TABLE nodes;
DROP TABLE operator_tokens;
DROP TABLE join_tokens;
DROP TABLE tombstones;
DROP TABLE resources;
DROP TABLE counters;
DROP TABLE meta;
