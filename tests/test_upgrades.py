"""Upgrades of PostgreSQL, and how a server starts on a schema that does not fit. SQLite's are in test_migrations.py."""

import asyncio
import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest

from taskctl import NewTask, Settings, TaskPatch, TaskQuery, open_tasks, parse_filter
from taskctl.storage.libpq import place
from taskctl.storage.migrations import HEAD, REVISIONS, WORKING
from taskctl.storage.migrations.upgrade import upgrade_postgres
from taskctl.wiring import check, current, upgrade
from tests.postgres import ask, empty_database
from tests.support import Server, Shell, serving
from tests.test_migrations import FILLED


@pytest.fixture
def url() -> Iterator[str]:
    with empty_database() as found:
        yield found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def schema_of(url: str) -> dict[str, list[Any]]:
    """Return everything that makes two databases alike."""
    return {
        "columns": ask(
            url,
            "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name "
            "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
        ),
        "indexes": ask(url, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"),
        "options": ask(
            url, "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relname !~ '^(pg|sql)_' ORDER BY 1"
        ),
        "rows": ask(
            url, "SELECT version_num, (SELECT count(*) FROM meta), (SELECT count(*) FROM workspaces) FROM alembic_version"
        ),
    }


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_upgrade_keeps_the_data_and_search_works_after_it(url: str, revision: str) -> None:
    settings = Settings(database_url=url)

    def prepare() -> None:
        upgrade_postgres(place(url, ""), REVISIONS[0])
        ask(url, *FILLED)
        upgrade_postgres(place(url, ""), revision)
        assert current(settings) == (revision, HEAD)

    await asyncio.to_thread(prepare)
    if revision not in WORKING:
        assert await asyncio.to_thread(upgrade, settings) == (revision, HEAD)
    # A schema that lacks no more than an index is worked with as it is; the others are upgraded by now.
    async with open_tasks(url) as tasks:
        task = await tasks.get(3)
        assert (task.title, task.status, task.priority, task.labels) == ("Buy milk 🚀", "in_progress", "urgent", ("later",))
        assert (str(task.due), task.version) == ("2026-11-30", 2)
        assert task.uid == UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")
        for text in ("milk", "mil", "label:later", "project:home", '"semi skimmed"', "due<2027-01-01"):
            assert (await tasks.list(TaskQuery(where=parse_filter(text)))).items == (task,)
        for sort in ("due", "-due", "-updated_at", "title", "priority"):
            assert (await tasks.list(TaskQuery(sort=(sort,)))).items == (task,)
        assert [entry.seq for entry in (await tasks.history(3)).items] == [1]
        await tasks.edit(3, TaskPatch(title="Buy bread"), if_version=2)
        assert (await tasks.list(TaskQuery(where=parse_filter("milk")))).items == ()
        assert (await tasks.add(NewTask(title="next"))).id == 4
    assert await asyncio.to_thread(upgrade, settings) == (revision if revision in WORKING else HEAD, HEAD)
    assert set((await asyncio.to_thread(check, settings)).values()) == {"ok"}


def test_the_printed_statements_do_what_an_upgrade_does(url: str, shell: Shell) -> None:
    printed = shell("db", "upgrade", "--sql", "--database-url", url)
    assert (printed.code, printed.err) == (0, "")
    assert current(Settings(database_url=url)) == (None, HEAD)
    ask(url, printed.out)
    with empty_database() as other:
        upgrade(Settings(database_url=other))
        assert schema_of(url) == schema_of(other)
    assert shell("db", "upgrade", "--sql", "--database-url", url).out == ""
    assert set(check(Settings(database_url=url)).values()) == {"ok"}


def test_the_printed_statements_go_on_from_where_the_database_is(url: str, shell: Shell) -> None:
    upgrade_postgres(place(url, ""), REVISIONS[1])
    printed = shell("db", "upgrade", "--sql", "--database-url", url).out
    assert "CREATE TABLE tasks" not in printed
    assert printed.count("COMMIT;") == len(REVISIONS) - 2
    ask(url, printed)
    assert current(Settings(database_url=url)) == (HEAD, HEAD)


def test_the_printed_statements_make_a_file_that_is_ours(shell: Shell, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    printed = shell("db", "upgrade", "--sql")
    assert not list((tmp_path / "data").glob("**/*.db"))
    with closing(sqlite3.connect(tmp_path / "made.db")) as raw:
        raw.executescript(printed.out)
    made = f"sqlite:///{tmp_path}/made.db"
    assert shell("task", "add", "t", "--database-url", made).code == 0
    assert set(check(Settings(database_url=made)).values()) == {"ok"}


def test_several_upgrades_at_once_run_once(url: str, shell: Shell) -> None:
    started = [
        subprocess.Popen(
            [*map(str, shell.argv("db", "upgrade", "-o", "json", "--database-url", url))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=shell.home,
            env=shell.environment,
        )
        for _ in range(4)
    ]
    ended = [process.communicate(timeout=60) for process in started]
    assert [err for _, err in ended] == [b""] * 4
    befores = sorted(str(json.loads(out)["before"]) for out, _ in ended)
    assert befores == [HEAD] * 3 + ["None"]
    assert set(check(Settings(database_url=url)).values()) == {"ok"}


def test_an_upgrade_that_is_killed_half_way_can_be_run_again(url: str, shell: Shell) -> None:
    upgrade_postgres(place(url, ""), REVISIONS[0])
    ask(url, *FILLED)
    with psycopg2.connect(url) as held:
        # Whoever holds this keeps the next revision from its index, in the middle of its transaction.
        held.cursor().execute("LOCK TABLE task_labels, tasks IN ROW EXCLUSIVE MODE")
        process = subprocess.Popen(
            [*map(str, shell.argv("db", "upgrade", "--database-url", url))], cwd=shell.home, env=shell.environment
        )
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"
        )
        deadline = time.monotonic() + 20
        while not ask(url, waiting.replace("%s", "current_database()"))[0][0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        held.rollback()
    held.close()
    assert upgrade(Settings(database_url=url)) == (REVISIONS[0], HEAD)
    assert set(check(Settings(database_url=url)).values()) == {"ok"}
    with empty_database() as other:
        upgrade(Settings(database_url=other))
        assert schema_of(url)["indexes"] == schema_of(other)["indexes"]


def test_a_database_of_another_program_is_not_changed(url: str, shell: Shell) -> None:
    ask(url, "CREATE TABLE tasks (cookies text)", "INSERT INTO tasks VALUES ('one')")
    told = shell.fails(7, "db", "upgrade", "--database-url", url)
    assert "cannot be changed" in told
    assert ask(url, "SELECT cookies FROM tasks") == [("one",)]
    assert current(Settings(database_url=url))[0] is None


def test_a_newer_schema_is_not_changed(url: str, shell: Shell) -> None:
    upgrade(Settings(database_url=url))
    ask(url, "UPDATE alembic_version SET version_num = '9999'")
    for arguments in (["db", "upgrade"], ["db", "upgrade", "--sql"], ["task", "list"], ["serve", "--port", "0"]):
        assert "a newer taskctl made" in shell.fails(7, *arguments, "--database-url", url)


# -------------------------------------------------------------------------------------------------------------- `serve`


def status_of(server: Server, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


@pytest.mark.parametrize("revision", [None, REVISIONS[0]])
def test_a_server_refuses_a_schema_that_does_not_fit(url: str, shell: Shell, revision: str | None) -> None:
    if revision:
        upgrade_postgres(place(url, ""), revision)
    told = shell.fails(7, "serve", "--port", "0", "--database-url", url)
    assert f"needs {HEAD}: run `taskctl db upgrade`" in told
    assert current(Settings(database_url=url))[0] == revision


def test_a_server_may_upgrade_before_it_serves(url: str, shell: Shell) -> None:
    with serving(shell, "--database-url", url, "--migrate", "auto") as server:
        assert server.logged(f"the schema was empty, and is {HEAD}")
        assert status_of(server, "/api/v1/tasks")[0] == 200


def test_a_server_may_wait_for_its_schema(url: str, shell: Shell) -> None:
    with serving(shell, "--database-url", url, "--migrate", "off") as server:
        status, problem = status_of(server, "/api/v1/tasks")
        assert (status, problem["code"]) == (503, "schema_outdated")
        assert "run `taskctl db upgrade`" in problem["detail"]
        assert (status_of(server, "/livez")[0], status_of(server, "/readyz")[0]) == (200, 503)
        upgrade(Settings(database_url=url))
        deadline = time.monotonic() + 10
        while status_of(server, "/readyz")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status_of(server, "/api/v1/tasks")[0] == 200


def test_what_migrate_takes_is_checked(shell: Shell) -> None:
    assert re.search("--migrate must be one of auto, check, off", shell.fails(2, "serve", "--migrate", "yes"))
