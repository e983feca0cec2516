"""What the `db` commands do with alembic. The only module that imports it, and SQLAlchemy; both are slow to import."""

import io
import time
from contextlib import closing
from typing import Any

import psycopg2
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from taskctl.errors import Unavailable
from taskctl.storage.checks import revision_of
from taskctl.storage.libpq import Place
from taskctl.storage.migrations import HEAD, REVISIONS, outdated
from taskctl.storage.sqlite import APPLICATION_ID, File

_ADVISORY_LOCK = 0x7461736B
"""Whoever holds the advisory lock with this number (PostgreSQL has one of each per database) may change the schema."""
LOCK_SECONDS = 600
"""How long an upgrade waits for another one."""


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
        _run(engine, revision)
        return before, _prepare(file) or revision


def upgrade_postgres(place: Place, revision: str = HEAD) -> tuple[str | None, str]:
    """Do the same to a PostgreSQL database.

    The advisory lock is on a connection of its own, and is asked for again and again: waiting for it within the database
    would be a transaction that holds up what the one before us waits for.
    """
    with place.connect() as lock:
        lock.autocommit = True
        cursor = lock.cursor()
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not _first(cursor, f"SELECT pg_try_advisory_lock({_ADVISORY_LOCK})"):
                if time.monotonic() > deadline:
                    raise Unavailable(f"somebody else has been changing the schema of {place.shown} for {LOCK_SECONDS} s")
                time.sleep(0.1)
        except psycopg2.Error as e:
            raise Unavailable(place.told(e)) from e
        before = place.revision()
        if before and before not in REVISIONS:
            raise outdated(before)
        options = f"{place.params.get('options', '')} -c client_connection_check_interval=100ms"
        params = place.connect_params(options=options)
        engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(**params), poolclass=NullPool)
        try:
            _run(engine, revision)
        except DBAPIError as e:
            told = str(e.orig).strip().partition("\n")[0]
            raise Unavailable(f"the schema of {place.shown} cannot be changed: {told}") from e
        return before, place.revision() or revision


def statements(dialect: str, before: str | None, revision: str = HEAD) -> str:
    """Return the SQL that an upgrade from a revision would run, without running anything."""
    if before and before not in REVISIONS:
        raise outdated(before)
    config = _config(dialect=dialect)
    config.output_buffer = io.StringIO()
    if dialect == "sqlite" and not before:
        config.output_buffer.write(f"PRAGMA journal_mode = WAL;\nPRAGMA application_id = {APPLICATION_ID};\n\n")
    if before != revision:
        command.upgrade(config, f"{before or 'base'}:{revision}", sql=True)
    return config.output_buffer.getvalue()


def _run(engine: Engine, revision: str) -> None:
    with engine.connect() as connection:
        command.upgrade(_config(connection=connection), revision)


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", "taskctl:storage/migrations")
    config.attributes.update(attributes)
    return config


def _first(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]


def _prepare(file: File) -> str | None:
    """Return the revision of the file, None if it is empty, with its header as taskctl wants it."""
    with closing(file.raw()) as raw:
        revision = file.revision(raw)
        if revision and revision not in REVISIONS:
            raise outdated(revision)
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        return revision
