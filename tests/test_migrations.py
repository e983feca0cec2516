"""The schema: one history, whichever way a file gets there; and what happens to files of other versions."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.script import ScriptDirectory

from taskctl import NewTask, SchemaOutdated, Settings, TaskPatch, TaskQuery, Unavailable, open_tasks, parse_filter
from taskctl.observe import ignore
from taskctl.storage.migrations import HEAD, REVISIONS, WORKING
from taskctl.storage.migrations.upgrade import upgrade_sqlite
from taskctl.storage.sqlite import APPLICATION_ID, File
from taskctl.wiring import check, current, upgrade
from tests.children import children, upgrade_once


def file_at(path: Path) -> File:
    return File(path, synchronous="full", timeout=5.0, observer=ignore)


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def ask(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as raw:
        return raw.execute(sql).fetchall()


def schema_of(path: Path) -> dict[str, Any]:
    """Return everything that makes two databases alike, the SQL without regard to white space."""
    names = [name for (name,) in ask(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'")]
    return {
        "master": {
            (kind, name, table, None if sql is None else " ".join(sql.replace("(", " ( ").replace(")", " ) ").split()))
            for kind, name, table, sql in ask(path, "SELECT type, name, tbl_name, sql FROM sqlite_master")
        },
        "application_id": ask(path, "PRAGMA application_id"),
        "journal_mode": ask(path, "PRAGMA journal_mode"),
        "encoding": ask(path, "PRAGMA encoding"),
        "rows": {name: ask(path, f"SELECT * FROM {name}") for name in names if name != "meta"},
        "epochs": len(ask(path, "SELECT epoch FROM meta WHERE length(epoch) = 16")),
    }


def test_a_new_file_is_what_all_revisions_make(tmp_path: Path) -> None:
    file_at(tmp_path / "new.db").connect().raw.close()
    assert upgrade_sqlite(file_at(tmp_path / "upgraded.db")) == (None, HEAD)
    made = schema_of(tmp_path / "new.db")
    assert made == schema_of(tmp_path / "upgraded.db")
    assert made["application_id"] == [(APPLICATION_ID,)]
    assert made["journal_mode"] == [("wal",)]
    assert made["epochs"] == 1
    assert made["rows"]["alembic_version"] == [(HEAD,)]
    assert made["rows"]["workspaces"] == [(1, "default", 0, 1, 0)]


def test_every_file_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = set()
    for name in ("a.db", "b.db"):
        file_at(tmp_path / name).connect().raw.close()
        epochs |= set(ask(tmp_path / name, "SELECT epoch FROM meta"))
    assert len(epochs) == 2


def test_the_known_revisions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory(str(Path(upgrade_sqlite.__code__.co_filename).parent))
    assert scripts.get_heads() == [HEAD]
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS


TASK = (
    "INSERT INTO tasks (workspace_id, id, uid, title, description, status, priority, project, labels, due_at, due_is_day, "
    "started_at, completed_at, created_at, updated_at, version, search) VALUES "
    "(1, 3, '01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d', 'Buy milk 🚀', 'Semi-skimmed', 1, 4, 'home.shop', '[\"later\"]', "
    "1796083200000000, 1, 1764000000000000, NULL, 1763990000000000, 1764000000000000, 2, 'buy milk | semi skimmed')"
)
"""A row as taskctl wrote it at revision 0001."""


FILLED = (
    TASK,
    "INSERT INTO task_labels VALUES (1, 'later', 3)",
    "UPDATE workspaces SET seq = 1, next_id = 4, written_at = 1764000000000000",
    (
        "INSERT INTO log (workspace_id, seq, at, changeset, source, entity, entity_id, entity_uid, op, version, task) "
        "VALUES (1, 1, 1764000000000000, '01936f0c-7a3e-7c4b-9d2e-000000000000', 'cli', 'task', 3, "
        "'01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d', 'add', 2, '{\"id\": 3, \"title\": \"Buy milk 🚀\"}')"
    ),
)
"""What taskctl would have put into a database of revision 0001."""


def fill(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        for statement in FILLED:
            raw.execute(statement)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_upgrade_keeps_the_data_and_search_works_after_it(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "tasks.db"
    upgrade_sqlite(file_at(path), REVISIONS[0])
    fill(path)
    upgrade_sqlite(file_at(path), revision)
    assert current(Settings(database_url=url_of(path))) == (revision, HEAD)
    assert upgrade(Settings(database_url=url_of(path))) == (revision, HEAD)
    assert set(check(Settings(database_url=url_of(path))).values()) == {"ok"}
    async with open_tasks(url_of(path)) as tasks:
        task = await tasks.get(3)
        assert (task.title, task.description, task.status, task.priority) == (
            *("Buy milk 🚀", "Semi-skimmed", "in_progress", "urgent"),
        )
        assert (task.project, task.labels, str(task.due), task.version) == ("home.shop", ("later",), "2026-11-30", 2)
        assert task.uid == UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")
        for text in ("milk", "label:later", "project:home", '"semi skimmed"'):
            assert (await tasks.list(TaskQuery(where=parse_filter(text)))).items == (task,)
        assert [entry.seq for entry in (await tasks.history(3)).items] == [1]
        await tasks.edit(3, TaskPatch(title="Buy bread"), if_version=2)
        assert (await tasks.list(TaskQuery(where=parse_filter("milk")))).items == ()
        assert (await tasks.add(NewTask(title="next"))).id == 4


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of the file and of what stands beside it; the gate holds nothing and may be made."""
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if not found.name.endswith("-gate")}


@pytest.mark.parametrize("revision", [one for one in REVISIONS if one not in WORKING])
async def test_an_older_file_is_refused_with_the_way_out(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "tasks.db"
    upgrade_sqlite(file_at(path), revision)
    before = contents(path)
    with pytest.raises(SchemaOutdated, match="run `taskctl db upgrade`") as caught:
        async with open_tasks(url_of(path)):
            pass
    assert caught.value.extra["revision"] == revision
    assert contents(path) == before
    upgrade(Settings(database_url=url_of(path)))
    async with open_tasks(url_of(path)) as tasks:
        await tasks.add(NewTask(title="t"))


async def test_a_newer_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    file_at(path).connect().raw.close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    before = contents(path)
    settings = Settings(database_url=url_of(path))
    with pytest.raises(SchemaOutdated, match="a newer taskctl made") as caught:
        async with open_tasks(url_of(path)):
            pass
    assert caught.value.extra["revision"] == "9999"
    with pytest.raises(SchemaOutdated, match="a newer taskctl made"):
        upgrade(settings)
    assert current(settings) == ("9999", HEAD)
    assert "a newer taskctl made" in check(settings)["schema"]
    assert contents(path) == before


def test_another_programs_file_is_not_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE cookies (name TEXT)")
    before = contents(path)
    with pytest.raises(Unavailable, match="another program"):
        upgrade(Settings(database_url=url_of(path)))
    assert contents(path) == before


def test_upgrading_what_is_not_there_makes_it(tmp_path: Path) -> None:
    settings = Settings(database_url=url_of(tmp_path / "tasks.db"))
    assert current(settings) == (None, HEAD)
    assert upgrade(settings) == (None, HEAD)
    assert upgrade(settings) == (HEAD, HEAD)


@pytest.mark.faults
def test_several_processes_upgrade_a_file_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    upgrade_sqlite(file_at(path), REVISIONS[0])
    fill(path)
    with children(3, upgrade_once, url_of(path)) as started:
        results = [child.receive() for child in started]
    assert sorted(results) == [(REVISIONS[0], HEAD), (HEAD, HEAD), (HEAD, HEAD)]
    assert set(check(Settings(database_url=url_of(path))).values()) == {"ok"}
