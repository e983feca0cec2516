"""Indexes by which every order and every filter finds a page without reading the workspace (docs/decisions/0009)."""

from alembic import op

revision = "0003"
down_revision = "0002"

_BOTH = (
    "DROP INDEX tasks_due",
    "DROP INDEX tasks_project",
    "CREATE INDEX tasks_due ON tasks (workspace_id, COALESCE(due_at, 9223372036854775807), id)",
    "CREATE INDEX tasks_due_last ON tasks (workspace_id, COALESCE(due_at, -9223372036854775807), id)",
    "CREATE INDEX tasks_created ON tasks (workspace_id, created_at, id)",
    "CREATE INDEX tasks_title ON tasks (workspace_id, title, id)",
    "CREATE INDEX tasks_status ON tasks (workspace_id, status, id)",
    "CREATE INDEX tasks_open ON tasks (workspace_id, COALESCE(due_at, 9223372036854775807), id) WHERE status < 2",
    "CREATE INDEX tasks_priority ON tasks (workspace_id, priority, id)",
    "CREATE INDEX tasks_project ON tasks (workspace_id, project, id) WHERE project IS NOT NULL",
    "CREATE INDEX log_at ON log (workspace_id, at, entity_id)",
)


def upgrade() -> None:
    for statement in _BOTH:
        op.execute(statement)
