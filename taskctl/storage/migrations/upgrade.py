"""What the `db` commands do with alembic. The only module that imports it, and SQLAlchemy; both are slow to import."""

import time
from contextlib import closing

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from taskctl.storage.checks import revision_of
from taskctl.storage.migrations import HEAD, REVISIONS, outdated
from taskctl.storage.sqlite import APPLICATION_ID, File


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "taskctl:storage/migrations")
    config.attributes["connection"] = connection
    return config


def upgrade_sqlite(file: File, revision: str = HEAD) -> tuple[str | None, str]:
    """Bring the tables of a file to a revision, in one transaction each; return the revisions before and after.

    Whoever else upgrades at the same time waits, and then finds nothing to do. Raises SchemaOutdated for a file that a newer
    taskctl made.
    """
    revision_of(file)
    with file.errors(), file.gate(time.monotonic() + file.timeout):
        before = _prepare(file)
        engine = create_engine("sqlite://", creator=file.raw, poolclass=NullPool)
        # sqlite3 begins no transaction for DDL by itself; this says BEGIN where SQLAlchemy thinks that one begins.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.connect() as connection:
            command.upgrade(_config(connection), revision)
        return before, _prepare(file) or revision


def _prepare(file: File) -> str | None:
    """Return the revision of the file, None if it is empty, with its header as taskctl wants it."""
    with closing(file.raw()) as raw:
        revision = file.revision(raw)
        if revision and revision not in REVISIONS:
            raise outdated(revision)
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        return revision
