"""Tokens: who may do what in which workspace."""

from alembic import op

revision = "0005"
down_revision = "0004"

_SQLITE = (
    """
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
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX tokens_name ON tokens (workspace_id, name) WHERE revoked_at IS NULL",
    "CREATE INDEX tokens_workspace ON tokens (workspace_id, created_at)",
)

_POSTGRESQL = (
    """
    CREATE TABLE tokens (
        id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
        workspace_id INTEGER NOT NULL,
        name TEXT COLLATE "C" NOT NULL,
        hash TEXT COLLATE "C" NOT NULL,
        scopes TEXT COLLATE "C" NOT NULL,
        created_at BIGINT NOT NULL,
        created_by TEXT COLLATE "C",
        maker TEXT COLLATE "C",
        expires_at BIGINT,
        last_used_at BIGINT,
        revoked_at BIGINT,
        revoked_by TEXT COLLATE "C"
    )
    """,
    "CREATE UNIQUE INDEX tokens_name ON tokens (workspace_id, name) WHERE revoked_at IS NULL",
    "CREATE INDEX tokens_workspace ON tokens (workspace_id, created_at)",
)


def upgrade() -> None:
    for statement in _SQLITE if op.get_context().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
