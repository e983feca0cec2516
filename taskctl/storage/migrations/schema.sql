-- A new SQLite file in one step: what the revisions in versions/ make one after another (tests/test_migrations.py compares).
PRAGMA application_id = 1952543595;
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version (version_num) VALUES ('0005');
CREATE TABLE meta (epoch TEXT NOT NULL);
INSERT INTO meta (epoch) VALUES (lower(hex(randomblob(8))));
CREATE TABLE workspaces (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    seq BIGINT NOT NULL DEFAULT 0,
    next_id BIGINT NOT NULL DEFAULT 1,
    written_at BIGINT NOT NULL DEFAULT 0
);
INSERT INTO workspaces (id, name) VALUES (1, 'default');
CREATE TABLE tasks (
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    id BIGINT NOT NULL,
    uid TEXT NOT NULL,
    title TEXT NOT NULL,
    description TEXT,
    status SMALLINT NOT NULL,
    priority SMALLINT NOT NULL,
    project TEXT,
    labels TEXT NOT NULL,
    due_at BIGINT,
    due_is_day SMALLINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    search TEXT NOT NULL,
    PRIMARY KEY (workspace_id, id),
    UNIQUE (workspace_id, uid)
) WITHOUT ROWID;
CREATE INDEX tasks_completed ON tasks (workspace_id, completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX tasks_due ON tasks (workspace_id, COALESCE(due_at, 9223372036854775807), id);
CREATE INDEX tasks_due_last ON tasks (workspace_id, COALESCE(due_at, -9223372036854775807), id);
CREATE INDEX tasks_created ON tasks (workspace_id, created_at, id);
CREATE INDEX tasks_title ON tasks (workspace_id, title, id);
CREATE INDEX tasks_status ON tasks (workspace_id, status, id);
CREATE INDEX tasks_open ON tasks (workspace_id, COALESCE(due_at, 9223372036854775807), id) WHERE status < 2;
CREATE INDEX tasks_priority ON tasks (workspace_id, priority, id);
CREATE INDEX tasks_project ON tasks (workspace_id, project, id) WHERE project IS NOT NULL;
CREATE TABLE task_labels (
    workspace_id INTEGER NOT NULL,
    label TEXT NOT NULL,
    task_id BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, label, task_id)
) WITHOUT ROWID;
CREATE TABLE log (
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    changeset TEXT NOT NULL,
    actor TEXT,
    source TEXT NOT NULL,
    entity TEXT NOT NULL,
    entity_id BIGINT NOT NULL,
    entity_uid TEXT NOT NULL,
    op TEXT NOT NULL,
    version BIGINT NOT NULL,
    task TEXT NOT NULL,
    former TEXT,
    message TEXT,
    PRIMARY KEY (workspace_id, seq)
) WITHOUT ROWID;
CREATE INDEX log_entity ON log (workspace_id, entity_id, seq);
CREATE INDEX log_at ON log (workspace_id, at, entity_id);
CREATE INDEX log_removed ON log (workspace_id, entity_uid, seq) WHERE op = 'remove';
CREATE VIRTUAL TABLE tasks_search USING fts5 (search, content = '', columnsize = 0, prefix = '2 3', tokenize = "ascii tokenchars '|'");
CREATE TRIGGER tasks_search_insert AFTER INSERT ON tasks BEGIN INSERT INTO tasks_search (rowid, search) VALUES ((new.workspace_id << 40 | new.id), new.search); END;
CREATE TRIGGER tasks_search_delete AFTER DELETE ON tasks BEGIN INSERT INTO tasks_search (tasks_search, rowid, search) VALUES ('delete', (old.workspace_id << 40 | old.id), old.search); END;
CREATE TRIGGER tasks_search_update AFTER UPDATE OF search ON tasks WHEN old.search <> new.search BEGIN INSERT INTO tasks_search (tasks_search, rowid, search) VALUES ('delete', (old.workspace_id << 40 | old.id), old.search); INSERT INTO tasks_search (rowid, search) VALUES ((new.workspace_id << 40 | new.id), new.search); END;
CREATE TABLE idempotency_keys (
    workspace_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    at BIGINT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (workspace_id, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_at ON idempotency_keys (workspace_id, at);
CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    workspace_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    maker TEXT,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX tokens_name ON tokens (workspace_id, name) WHERE revoked_at IS NULL;
CREATE INDEX tokens_workspace ON tokens (workspace_id, created_at);
