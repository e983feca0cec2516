"""Workspaces, tasks and the log."""

from alembic import op

revision = "0001"
down_revision = None

_SQLITE = (
    "CREATE TABLE meta (epoch TEXT NOT NULL)",
    "INSERT INTO meta (epoch) VALUES (lower(hex(randomblob(8))))",
    """
    CREATE TABLE workspaces (
        id INTEGER NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        seq BIGINT NOT NULL DEFAULT 0,
        next_id BIGINT NOT NULL DEFAULT 1,
        written_at BIGINT NOT NULL DEFAULT 0
    )
    """,
    "INSERT INTO workspaces (id, name) VALUES (1, 'default')",
    """
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
    ) WITHOUT ROWID
    """,
    "CREATE INDEX tasks_due ON tasks (workspace_id, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX tasks_project ON tasks (workspace_id, project, status) WHERE project IS NOT NULL",
    "CREATE INDEX tasks_completed ON tasks (workspace_id, completed_at) WHERE completed_at IS NOT NULL",
    """
    CREATE TABLE task_labels (
        workspace_id INTEGER NOT NULL,
        label TEXT NOT NULL,
        task_id BIGINT NOT NULL,
        PRIMARY KEY (workspace_id, label, task_id)
    ) WITHOUT ROWID
    """,
    """
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
    ) WITHOUT ROWID
    """,
    "CREATE INDEX log_entity ON log (workspace_id, entity_id, seq)",
    "CREATE INDEX log_removed ON log (workspace_id, entity_uid, seq) WHERE op = 'remove'",
)


# Text compares by code point, as in SQLite. No foreign keys: whoever writes holds the row of the workspace, and a check for
# each row would cost as much as writing it. Tasks change in place, so their pages keep room for that.
_POSTGRESQL = (
    "CREATE TABLE meta (epoch TEXT NOT NULL)",
    "INSERT INTO meta (epoch) VALUES (substr(md5(gen_random_uuid()::text), 1, 16))",
    """
    CREATE TABLE workspaces (
        id INTEGER NOT NULL PRIMARY KEY,
        name TEXT COLLATE "C" NOT NULL UNIQUE,
        seq BIGINT NOT NULL DEFAULT 0,
        next_id BIGINT NOT NULL DEFAULT 1,
        written_at BIGINT NOT NULL DEFAULT 0
    ) WITH (fillfactor = 50)
    """,
    "INSERT INTO workspaces (id, name) VALUES (1, 'default')",
    """
    CREATE TABLE tasks (
        workspace_id INTEGER NOT NULL,
        id BIGINT NOT NULL,
        uid UUID NOT NULL,
        title TEXT COLLATE "C" NOT NULL,
        description TEXT COLLATE "C",
        status SMALLINT NOT NULL,
        priority SMALLINT NOT NULL,
        project TEXT COLLATE "C",
        labels TEXT COLLATE "C" NOT NULL,
        due_at BIGINT,
        due_is_day SMALLINT NOT NULL,
        started_at BIGINT,
        completed_at BIGINT,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        version BIGINT NOT NULL,
        search TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (workspace_id, id),
        UNIQUE (workspace_id, uid)
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX tasks_due ON tasks (workspace_id, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX tasks_project ON tasks (workspace_id, project, status) WHERE project IS NOT NULL",
    "CREATE INDEX tasks_completed ON tasks (workspace_id, completed_at) WHERE completed_at IS NOT NULL",
    """
    CREATE TABLE task_labels (
        workspace_id INTEGER NOT NULL,
        label TEXT COLLATE "C" NOT NULL,
        task_id BIGINT NOT NULL,
        PRIMARY KEY (workspace_id, label, task_id)
    )
    """,
    """
    CREATE TABLE log (
        workspace_id INTEGER NOT NULL,
        seq BIGINT NOT NULL,
        at BIGINT NOT NULL,
        changeset UUID NOT NULL,
        actor TEXT COLLATE "C",
        source TEXT COLLATE "C" NOT NULL,
        entity TEXT COLLATE "C" NOT NULL,
        entity_id BIGINT NOT NULL,
        entity_uid UUID NOT NULL,
        op TEXT COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        task TEXT COLLATE "C" NOT NULL,
        former TEXT COLLATE "C",
        message TEXT COLLATE "C",
        PRIMARY KEY (workspace_id, seq)
    )
    """,
    "CREATE INDEX log_entity ON log (workspace_id, entity_id, seq)",
    "CREATE INDEX log_removed ON log (workspace_id, entity_uid, seq) WHERE op = 'remove'",
)


def upgrade() -> None:
    for statement in _SQLITE if op.get_context().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
