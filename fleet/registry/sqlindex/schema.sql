-- What the registry's repositories have. Times are microseconds since 1970. Written so that SQLite and PostgreSQL both
-- take it.
CREATE TABLE IF NOT EXISTS registry_blobs (
    repository TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    size       BIGINT NOT NULL,
    linked_at  BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE TABLE IF NOT EXISTS registry_manifests (
    repository    TEXT   NOT NULL,
    digest        TEXT   NOT NULL,
    media_type    TEXT   NOT NULL,
    artifact_type TEXT   NOT NULL,
    size          BIGINT NOT NULL,
    subject       TEXT   NOT NULL, -- empty: none
    annotations   TEXT   NOT NULL, -- JSON
    pushed_at     BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX IF NOT EXISTS registry_manifests_subject ON registry_manifests (repository, subject, digest);
CREATE TABLE IF NOT EXISTS registry_references (
    repository TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    digest     TEXT NOT NULL, -- of a blob
    PRIMARY KEY (repository, manifest, digest)
);
CREATE INDEX IF NOT EXISTS registry_references_digest ON registry_references (repository, digest);
CREATE TABLE IF NOT EXISTS registry_tags (
    repository TEXT   NOT NULL,
    tag        TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    tagged_at  BIGINT NOT NULL,
    PRIMARY KEY (repository, tag)
);
CREATE INDEX IF NOT EXISTS registry_tags_digest ON registry_tags (repository, digest);
CREATE TABLE IF NOT EXISTS registry_uploads (
    id         TEXT   NOT NULL PRIMARY KEY,
    repository TEXT   NOT NULL,
    size       BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);
