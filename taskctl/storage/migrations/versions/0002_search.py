"""Full text search.

The index holds the words that `taskctl.filters.words` finds. They have no spaces, and what FTS5's ascii tokenizer does with
them is to part them at the spaces; PostgreSQL gets them as lexemes without its parser. So neither sees them differently.
"""

from alembic import op

from taskctl.storage.migrations import LEXEMES

revision = "0002"
down_revision = "0001"

_ROW = "({row}.workspace_id << 40 | {row}.id)"
_NEW, _OLD = _ROW.format(row="new"), _ROW.format(row="old")
_DELETE = f"INSERT INTO tasks_search (tasks_search, rowid, search) VALUES ('delete', {_OLD}, old.search);"
_INSERT = f"INSERT INTO tasks_search (rowid, search) VALUES ({_NEW}, new.search);"

_CHANGED = "old.search <> new.search"
_COLUMNS = "search, content = '', columnsize = 0, prefix = '2 3', tokenize = \"ascii tokenchars '|'\""

_SQLITE = (
    f"CREATE VIRTUAL TABLE tasks_search USING fts5 ({_COLUMNS})",
    "INSERT INTO tasks_search (rowid, search) SELECT workspace_id << 40 | id, search FROM tasks",
    f"CREATE TRIGGER tasks_search_insert AFTER INSERT ON tasks BEGIN {_INSERT} END",
    f"CREATE TRIGGER tasks_search_delete AFTER DELETE ON tasks BEGIN {_DELETE} END",
    f"CREATE TRIGGER tasks_search_update AFTER UPDATE OF search ON tasks WHEN {_CHANGED} BEGIN {_DELETE} {_INSERT} END",
)


_POSTGRESQL = (f"CREATE INDEX tasks_search ON tasks USING gin (({LEXEMES}))",)


def upgrade() -> None:
    for statement in _SQLITE if op.get_context().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
