"""The history of the schema, for alembic; and what can be known of it without importing alembic, which takes half a second.

`schema.sql` makes in one step what all revisions make one after another. tests/test_migrations.py holds the two equal.
"""

from pathlib import Path

from taskctl.errors import SchemaOutdated, TaskctlError

HEAD = "0005"
REVISIONS = ("0001", "0002", "0003", "0004", "0005")
WORKING = ("0002", "0003", "0004", "0005")
"""The revisions with which this taskctl works: what came after them only adds to them, such as an index. Keys need 0004,
tokens 0005."""

LEXEME_MAX = 250
"""Characters of a word that PostgreSQL's index holds; it takes no more than 2046 bytes."""
LEXEMES = (
    "array_to_tsvector(string_to_array(CASE WHEN length(search) > 250 "
    r"THEN regexp_replace(search, '(\S{250})\S+', '\1', 'g') ELSE search END, ' '))"
)
"""The words of a task as PostgreSQL's index has them, as they are: it has no say in where a word begins or ends."""


def script() -> str:
    """Return the SQL that makes an empty SQLite file a database of this version."""
    return Path(__file__).with_name("schema.sql").read_text("utf-8")


def outdated(revision: str | None) -> TaskctlError:
    """Return the failure to work with tables of this revision."""
    if not revision or revision in REVISIONS:
        found = f"has the schema {revision}" if revision else "has no tables yet"
        return SchemaOutdated(
            f"the database {found}, and this taskctl needs {HEAD}: run `taskctl db upgrade`",
            revision=revision,
        )
    return SchemaOutdated(
        f"the database has the schema {revision}, which a newer taskctl made; this one knows {HEAD}: upgrade taskctl",
        revision=revision,
    )
