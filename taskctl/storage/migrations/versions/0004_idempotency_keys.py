"""Idempotency keys, with the answers that they stand for."""

from alembic import op

revision = "0004"
down_revision = "0003"

_SQLITE = (
    """
    CREATE TABLE idempotency_keys (
        workspace_id INTEGER NOT NULL,
        key TEXT NOT NULL,
        request TEXT NOT NULL,
        at BIGINT NOT NULL,
        answer TEXT NOT NULL,
        PRIMARY KEY (workspace_id, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX idempotency_keys_at ON idempotency_keys (workspace_id, at)",
)

_POSTGRESQL = (
    """
    CREATE TABLE idempotency_keys (
        workspace_id INTEGER NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        request TEXT COLLATE "C" NOT NULL,
        at BIGINT NOT NULL,
        answer TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (workspace_id, key)
    )
    """,
    "CREATE INDEX idempotency_keys_at ON idempotency_keys (workspace_id, at)",
)


def upgrade() -> None:
    for statement in _SQLITE if op.get_context().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
