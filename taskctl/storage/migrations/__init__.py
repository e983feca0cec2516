"""The history of the schema, for alembic; and what can be known of it without importing alembic, which takes half a second.

`schema.sql` makes in one step what all revisions make one after another. tests/test_migrations.py holds the two equal.
"""

from pathlib import Path

from taskctl.errors import SchemaOutdated, TaskctlError

HEAD = "0002"
REVISIONS = ("0001", "0002")


def script() -> str:
    """Return the SQL that makes an empty SQLite file a database of this version."""
    return Path(__file__).with_name("schema.sql").read_text("utf-8")


def outdated(revision: str | None) -> TaskctlError:
    """Return the failure to work with tables of this revision."""
    if not revision or revision in REVISIONS:
        return SchemaOutdated(
            f"the database has the schema {revision or 'of no revision'}, and this taskctl needs {HEAD}: "
            "run `taskctl db upgrade`",
            revision=revision,
        )
    return SchemaOutdated(
        f"the database has the schema {revision}, which a newer taskctl made; this one knows {HEAD}: upgrade taskctl",
        revision=revision,
    )
