"""PostgreSQL as a place for tasks: addresses, sessions, what is shared, and what happens when a connection breaks."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import psycopg2
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from taskctl import (
    Add,
    Changeset,
    Conflict,
    NewTask,
    Remove,
    SchemaOutdated,
    Settings,
    TaskNotFound,
    TaskPatch,
    TaskQuery,
    TaskService,
    Unavailable,
    open_tasks,
    parse_filter,
)
from taskctl.errors import ConfigError, NotFound, OutcomeUnknown
from taskctl.observe import BatchCommitted, DatabaseAway, DatabaseBack, Event, StatementDone, ignore
from taskctl.storage.committer import CHARACTERS_MAX
from taskctl.storage.libpq import place
from taskctl.storage.postgres import Dialect
from taskctl.wiring import _postgres, check, current, shown_database, upgrade
from tests.postgres import ask, base_url, database, empty_database, free_port, named
from tests.proxy import Proxy

T = TypeVar("T")


@pytest.fixture
def url() -> Iterator[str]:
    with database() as found:
        yield found


@pytest.fixture(scope="module")
def reading() -> Iterator[Any]:
    """Yield a cursor on a database with nothing in it."""
    with empty_database() as found, closing(psycopg2.connect(found)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        yield cursor


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(url).port or 5432) as found:
        yield found


def through(proxy: Proxy, url: str) -> str:
    """Return the address of a database by way of the proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()


async def soon(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call returns once it is no longer Unavailable."""
    deadline = asyncio.get_running_loop().time() + 5
    while True:
        try:
            return await call()
        except Unavailable:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -------------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h/db", "postgresql://u@h/db"),
        ("postgres://u:secret@h:5433/db?sslmode=require", "postgresql://u@h:5433/db"),
        ("postgresql://h/db?password=secret&user=u", "postgresql://u@h/db"),
        ("postgresql://u@a:1,b:2/db?target_session_attrs=read-write", "postgresql://u@a:1,b:2/db"),
        ("postgresql:///db?host=/run/pg", "postgresql:///run/pg/db"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_database(Settings(database_url=url)) == shown


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:secret@h/db?colour=red", '"colour" is not a parameter of libpq'),
        ("postgresql://u:%zzsecret@h/db", "it is not well formed"),
        ("postgresql://u:secret@h/db?connect_timeout=soon", "connect_timeout must be a whole number of seconds"),
        ("postgresql://u:secret@h:port/db", "a port must be a number"),
        ("postgresql://u:sec/secret@h:5432/db", "is written %40 or %2F"),
        ("postgresql://u:sec@secret@h:5432/db", "is written %40 or %2F"),
        ("postgresql://u:secret@h/db?sslmode=requir", "no such sslmode"),
        ("postgresql://u:secret@h/db?target_session_attrs=readwrite", "no such target_session_attrs"),
        ("u:secret@h/db", "what was given is not the address of a database"),
        ("postgres//u:secret@h/db", "what was given is not the address of a database"),
        ("host=h password=secret dbname=db", "what was given is not the address of a database"),
    ],
)
async def test_an_address_that_libpq_does_not_know_is_wrong_usage(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_tasks(url):
            pass
    assert told in caught.value.detail
    assert "secret" not in caught.value.detail


async def test_the_parameters_of_libpq_reach_the_session(url: str) -> None:
    options = "application_name=mine&options=-c%20work_mem%3D7MB&keepalives_idle=33"
    async with open_tasks(f"{url}?{options}") as tasks:
        await tasks.add(NewTask(title="t"))
        names = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mine'"
        assert ask(url, names)[0][0] >= 1
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="t"))
        assert ask(url, names.replace("mine", "taskctl"))[0][0] >= 1


async def test_the_password_may_stand_in_a_file_that_changes(url: str, tmp_path: Path) -> None:
    # The server trusts whoever comes, so what is looked at is what is read, and when.
    file = tmp_path / "password"
    found = place(url, str(file))
    with pytest.raises(Unavailable, match=f"cannot be read from {file}: No such file"):
        await found.targets()
    file.write_text("one\n")
    assert [target["password"] for target in await found.targets()] == ["one"]
    file.write_text("two")
    assert [target["password"] for target in await found.targets()] == ["two"]
    async with open_tasks(url, settings=Settings(database_password_file=str(file))) as tasks:
        await tasks.add(NewTask(title="t"))
    parts = urlsplit(url)
    with pytest.raises(ConfigError, match="named twice"):
        place(parts._replace(netloc=f"u:secret@{parts.hostname}").geturl(), str(file))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "/nowhere"}, "does not exist"),
        ({"netloc": "taskctl@127.0.0.1:1"}, "the connection is refused"),
        ({"netloc": "taskctl@nowhere.invalid"}, "no address is known of nowhere.invalid"),
        ({"query": "sslmode=require"}, "over TLS as it is set"),
    ],
)
async def test_what_keeps_one_out_is_told_in_words(url: str, change: dict[str, str], told: str) -> None:
    with pytest.raises(Unavailable, match=told) as caught:
        async with open_tasks(urlsplit(url)._replace(**change).geturl()):
            pass
    assert "FATAL" not in caught.value.detail
    with pytest.raises(Unavailable):
        current(Settings(database_url=urlsplit(url)._replace(**change).geturl()))


async def test_of_several_hosts_the_one_that_takes_writes_is_used(url: str) -> None:
    parts = urlsplit(url)
    with Proxy(parts.port or 5432) as silent:
        silent.hang()
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{silent.port},localhost:{parts.port}"
        several = f"postgresql://{parts.username}@{hosts}{parts.path}?target_session_attrs=read-write&connect_timeout=2"
        async with open_tasks(several) as tasks:  # as soon as the silent one has had its two seconds
            await tasks.add(NewTask(title="t"))
            ask(url, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            try:
                with pytest.raises(Unavailable):
                    async with open_tasks(several.replace(f",127.0.0.1:{silent.port}", "")):
                        pass
            finally:
                with_writes = "options=-c%20default_transaction_read_only%3Doff"
                ask(f"{url}?{with_writes}", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
            assert [task.title for task in (await tasks.list()).items] == ["t"]


# --------------------------------------------------------------------------------------------------------------- the schema


async def test_a_database_without_tables_says_what_to_run() -> None:
    with empty_database() as url:
        with pytest.raises(SchemaOutdated, match="run `taskctl db upgrade`"):
            async with open_tasks(url):
                pass
        assert current(Settings(database_url=url))[0] is None
        assert "run `taskctl db upgrade`" in (await asyncio.to_thread(check, Settings(database_url=url)))["schema"]


async def test_a_database_with_another_encoding_is_refused() -> None:
    ask(base_url(), "CREATE DATABASE taskctl_test_latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    try:
        settings = Settings(database_url=named("taskctl_test_latin"))
        with pytest.raises(Unavailable, match="has the encoding LATIN1, and UTF8 is needed"):
            async with open_tasks(settings=settings):
                pass
        for command in (upgrade, check, current):
            with pytest.raises(Unavailable, match="has the encoding LATIN1, and UTF8 is needed"):
                await asyncio.to_thread(command, settings)
    finally:
        ask(base_url(), "DROP DATABASE taskctl_test_latin WITH (FORCE)")


async def test_who_may_not_read_the_tables_is_told_so(url: str) -> None:
    ask(base_url(), "DROP ROLE IF EXISTS taskctl_test_stranger", "CREATE ROLE taskctl_test_stranger LOGIN")
    parts = urlsplit(url)
    theirs = parts._replace(netloc=f"taskctl_test_stranger@{parts.hostname}:{parts.port}").geturl()
    settings = Settings(database_url=theirs)
    for command in (upgrade, check, current):
        with pytest.raises(Unavailable, match="may not"):
            await asyncio.to_thread(command, settings)
    with pytest.raises(Unavailable, match="may not"):
        async with open_tasks(theirs):
            pass
    ask(base_url(), "DROP ROLE taskctl_test_stranger")


async def test_a_table_that_is_missing_is_told_so() -> None:
    with empty_database() as url:
        upgrade(Settings(database_url=url))
        ask(url, "DROP TABLE task_labels")
        async with open_tasks(url) as tasks:
            with pytest.raises(SchemaOutdated, match="lacks a table"):
                await tasks.add(NewTask(title="t", labels=["a"]))
        with pytest.raises(SchemaOutdated, match="lacks a table"):
            await asyncio.to_thread(check, Settings(database_url=url))


async def test_a_newer_schema_is_refused(url: str) -> None:
    ask(url, "UPDATE alembic_version SET version_num = '9999'")
    try:
        with pytest.raises(SchemaOutdated, match="a newer taskctl made"):
            async with open_tasks(url):
                pass
    finally:
        ask(url, "UPDATE alembic_version SET version_num = '0005'")


async def test_a_service_that_waits_for_its_schema_serves_once_it_is_there() -> None:
    with empty_database() as url:
        async with open_tasks(url, checked=False) as tasks:
            with pytest.raises(SchemaOutdated):
                await tasks.list()
            await asyncio.to_thread(upgrade, Settings(database_url=url))
            await soon(lambda: tasks.add(NewTask(title="t")))
            assert len((await tasks.list()).items) == 1


def test_a_check_tells_what_is_wrong(url: str) -> None:
    asyncio.run(_add(url, 3))
    settings = Settings(database_url=url)
    assert set(check(settings).values()) == {"ok"}
    ask(url, "DELETE FROM log WHERE seq = 2")
    found = check(settings)
    assert found["log"] == "numbers are missing in default"
    assert found["tasks"] == "1 are not as the log says"


async def _add(url: str, count: int) -> None:
    async with open_tasks(url) as tasks:
        for number in range(count):
            await tasks.add(NewTask(title=f"t{number}"))


# ------------------------------------------------------------------------------------------------------- what is shared


@asynccontextmanager
async def watched(url: str, **more: Any) -> AsyncIterator[tuple[TaskService, list[Event]]]:
    events: list[Event] = []
    async with open_tasks(url, settings=Settings(**more), observer=events.append) as tasks:
        yield tasks, events


def statements(events: list[Event]) -> list[str]:
    """Return what was asked about tasks, without what begins a session."""
    return [event.sql for event in events if isinstance(event, StatementDone) and "tasks" in event.sql]


async def test_single_reads_that_arrive_together_are_one_query(url: str) -> None:
    async with watched(url) as (tasks, events):
        added = [(await tasks.add(NewTask(title=f"t{n}"))) for n in range(20)]
        events.clear()
        refs = [one for task in added for one in (task.id, task.uid)] * 3
        found = await asyncio.gather(*map(tasks.get, refs), tasks.get(99), return_exceptions=True)
        assert found[:-1] == [task for task in added for _ in range(2)] * 3
        assert isinstance(found[-1], TaskNotFound)
        assert len(statements(events)) == 2  # by id, and by uid


async def test_equal_lists_that_wait_share_a_query_and_others_do_not(url: str) -> None:
    async with watched(url, database_connections=3) as (tasks, events):
        await tasks.add(NewTask(title="milk"))
        events.clear()
        # Two statements may be under way. The first two lists are sent at once, so the third one must not share theirs.
        lists = [tasks.list(TaskQuery(where=parse_filter(text))) for text in ("milk", "bread", "milk", "milk", "milk")]
        found = await asyncio.gather(*lists)
        assert [len(page.items) for page in found] == [1, 0, 1, 1, 1]
        assert len(statements(events)) == 3


async def test_no_reader_gets_what_was_asked_before_it_came(url: str) -> None:
    known = 0
    async with open_tasks(url, settings=Settings(database_connections=3)) as tasks:
        await tasks.add(NewTask(title="0"))

        async def reader() -> None:
            for _ in range(60):
                before = known
                found = await (tasks.get(1) if random.random() < 0.5 else tasks.list())
                task = found if not hasattr(found, "items") else found.items[0]
                assert int(task.title) >= before

        async def writer() -> None:
            nonlocal known
            for number in range(1, 120):
                await tasks.edit(1, TaskPatch(title=str(number)))
                known = number

        await asyncio.gather(writer(), *(reader() for _ in range(20)))


async def test_writers_of_different_workspaces_do_not_wait_for_each_other(url: str) -> None:
    ask(url, "INSERT INTO workspaces (id, name) VALUES (2, 'other')")
    with psycopg2.connect(url) as held:
        held.cursor().execute("SELECT 1 FROM workspaces WHERE name = 'other' FOR UPDATE")
        async with open_tasks(url) as mine, open_tasks(url, workspace="other") as other:
            waiting = asyncio.ensure_future(other.add(NewTask(title="t")))
            assert (await mine.add(NewTask(title="t"))).id == 1
            assert not waiting.done()
            held.rollback()
            assert (await waiting).id == 1
    held.close()


async def test_a_workspace_that_somebody_holds_is_unavailable_in_time(url: str) -> None:
    with psycopg2.connect(url) as held:
        held.cursor().execute("SELECT 1 FROM workspaces WHERE name = 'default' FOR UPDATE")
        async with open_tasks(url, settings=Settings(database_timeout=0.5)) as tasks:
            with pytest.raises(Unavailable, match="locked for too long"):
                await tasks.add(NewTask(title="t"))
            assert (await tasks.list()).items == ()
            held.rollback()
            assert (await tasks.add(NewTask(title="t"))).id == 1
    held.close()


async def test_a_batch_takes_two_round_trips_however_large_it_is(url: str) -> None:
    async with watched(url) as (tasks, events):
        for _ in range(2):
            await tasks.write(Changeset(tuple(Add(NewTask(title="t", labels=["a"])) for _ in range(100))))
            ids = [task.id for task in (await tasks.list(TaskQuery(limit=None))).items]
            events.clear()
            await tasks.write(Changeset(tuple(Remove(id) for id in ids)))
            # The other one is the commit, which has no rows to tell of.
            assert len(statements(events)) == 1


async def test_a_transaction_takes_four_mebibytes_of_text_at_most(url: str) -> None:
    async with watched(url) as (tasks, events):
        large = [NewTask(title="t", description="x" * 65536) for _ in range(100)]
        await asyncio.gather(*(tasks.write(Changeset(tuple(Add(task) for task in large[:25]))) for _ in range(12)))
        sizes = [event.operations for event in events if isinstance(event, BatchCommitted)]
        assert sum(sizes) == 300
        assert max(sizes) * 65536 <= CHARACTERS_MAX


@pytest.mark.parametrize("word", ["x" * 251, "y" * 4000, "é" * 1000, "🚀a" * 600, "中文" * 500])
async def test_a_word_of_any_length_is_found_by_any_beginning_of_it(url: str, word: str) -> None:
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="t", description=f"before {word} after"))
        await tasks.add(NewTask(title="before and after"))
        for text, found in ((word, [1]), (word[: len(word) // 2], [1]), (f'"before {word} after"', [1]), (f"{word}b", [])):
            page = await tasks.list(TaskQuery(where=parse_filter(text)))
            assert [task.id for task in page.items] == found, text[:300]


# ------------------------------------------------------------------------------------------------- connections that break


async def test_descriptors_may_have_any_number(url: str) -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        driver, _ = _postgres(url, Settings(database_timeout=0.5), ignore)
        with pytest.raises(Unavailable, match=r"has not done a statement within 0.5 s"):
            await driver.fetch("SELECT pg_sleep(5)")
        assert await driver.fetch("SELECT 1") == [(1,)]
        ask(url, ENDED)
        assert await driver.fetch("SELECT 1") == [(1,)]
        await driver.close()
    finally:
        for descriptor in held:
            os.close(descriptor)


async def test_a_server_that_refuses_one_more_is_not_away(url: str) -> None:
    ask(base_url(), "DROP ROLE IF EXISTS taskctl_test_few", "CREATE ROLE taskctl_test_few LOGIN CONNECTION LIMIT 4")
    ask(url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO taskctl_test_few")
    parts = urlsplit(url)
    theirs = parts._replace(netloc=f"taskctl_test_few@{parts.hostname}:{parts.port}").geturl()
    async with watched(theirs, database_connections=4) as (tasks, events):
        await tasks.add(NewTask(title="t"))
        with psycopg2.connect(url) as held:
            held.cursor().execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            asked = [asyncio.ensure_future(tasks.list(TaskQuery(limit=n + 1))) for n in range(3)]
            await asyncio.sleep(1.5)
            held.rollback()
        held.close()
        assert [len(page.items) for page in await asyncio.gather(*asked)] == [1, 1, 1]
        assert not [event for event in events if isinstance(event, DatabaseAway)]
    ask(url, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM taskctl_test_few", "DROP ROLE taskctl_test_few")


async def test_a_read_whose_connection_is_ended_is_tried_again(url: str) -> None:
    async with open_tasks(url, settings=Settings(database_connections=3)) as tasks:
        await tasks.add(NewTask(title="t"))
        for _ in range(5):
            ask(url, ENDED)
            assert (await tasks.get(1)).title == "t"


ENDED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'taskctl'"
)


async def test_a_statement_that_takes_too_long_is_unavailable_and_not_a_cancellation(url: str) -> None:
    driver, _ = _postgres(url, Settings(database_timeout=0.5), ignore)
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"has not done a statement within 0.5 s"):
                await driver.fetch("SELECT pg_sleep(5)")
            assert await driver.fetch("SELECT 1") == [(1,)]
    finally:
        await driver.close()


async def test_a_table_that_somebody_locks_is_unavailable_in_time(url: str) -> None:
    async with open_tasks(url, settings=Settings(database_timeout=0.5)) as tasks:
        await tasks.add(NewTask(title="t"))
        with psycopg2.connect(url) as held:
            held.cursor().execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(Unavailable, match="locked for too long"):
                await tasks.get(1)
            held.rollback()
        held.close()
        assert (await tasks.get(1)).title == "t"


async def test_when_all_connections_are_busy_the_next_is_told_so(url: str) -> None:
    async with open_tasks(url, settings=Settings(database_connections=3, database_timeout=0.6)) as tasks:
        await tasks.add(NewTask(title="t"))
        with psycopg2.connect(url) as held:
            held.cursor().execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            asked = [tasks.list(TaskQuery(limit=n + 1)) for n in range(8)]
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(one, Unavailable) for one in found), found
            held.rollback()
        held.close()
        assert (await tasks.get(1)).title == "t"


@pytest.mark.parametrize("passes", [False, True], ids=["before", "after"])
async def test_a_commit_that_is_cut_off_happens_once_and_is_answered(url: str, proxy: Proxy, passes: bool) -> None:
    async with open_tasks(through(proxy, url)) as tasks:
        await tasks.add(NewTask(title="first"))
        for number in range(2, 6):
            proxy.cut_at(b";COMMIT", passes=passes)
            added = await asyncio.gather(*(tasks.add(NewTask(title=f"{number}.{n}")) for n in range(3)))
            assert len({task.id for task in added}) == 3
        assert proxy.cuts == 4
        titles = [task.title for task in (await tasks.list(TaskQuery(limit=None))).items]
        assert len(titles) == len(set(titles)) == 13
        entries = (await tasks.changes(limit=100)).items
        assert [entry.seq for entry in entries] == list(range(1, 14))


async def test_a_commit_that_is_cut_off_for_good_is_unknown(url: str, proxy: Proxy) -> None:
    async with open_tasks(through(proxy, url), settings=Settings(database_timeout=1.0)) as tasks:
        task = await tasks.add(NewTask(title="first"))
        proxy.cut_at(b";COMMIT", passes=True, refuse=True)
        write = asyncio.ensure_future(tasks.add(NewTask(title="second")))
        mistaken = asyncio.ensure_future(tasks.add(NewTask(title="third", uid=task.uid)))
        with pytest.raises(OutcomeUnknown, match="cannot be found out"):
            await write
        with pytest.raises(Conflict):  # that is known: it was found out under the lock
            await mistaken
        proxy.accept()
        assert len((await soon(tasks.list)).items) == 2


async def test_while_the_database_is_known_to_be_away_nobody_waits(url: str, proxy: Proxy) -> None:
    loop = asyncio.get_running_loop()
    async with watched(through(proxy, url)) as (tasks, events):
        await tasks.add(NewTask(title="t"))
        for fail, mend in ((proxy.refuse, proxy.accept), (proxy.hang, proxy.go_on)):
            events.clear()
            fail()
            with pytest.raises(Unavailable):
                await tasks.get(1)
            for ask_for in (tasks.get(1), tasks.list(), tasks.add(NewTask(title="u"))):
                started = loop.time()
                with pytest.raises(Unavailable):
                    await ask_for
                assert loop.time() - started < 0.3
            assert [type(event) for event in events if isinstance(event, DatabaseAway | DatabaseBack)] == [DatabaseAway]
            mend()
            await soon(lambda: tasks.get(1))
            assert [type(e) for e in events if isinstance(e, DatabaseAway | DatabaseBack)] == [DatabaseAway, DatabaseBack]


async def test_callers_who_leave_leave_nothing_behind(url: str) -> None:
    async with open_tasks(url, settings=Settings(database_connections=4)) as tasks:
        await tasks.add(NewTask(title="t"))
        rng = random.Random(7)
        for _ in range(20):
            kinds = [lambda: tasks.get(1), tasks.list, lambda: tasks.edit(1, TaskPatch(title=str(rng.random())))]
            calls = [asyncio.ensure_future(cast(Any, rng.choice(kinds))()) for _ in range(64)]
            await asyncio.sleep(rng.random() * 0.01)
            for call in calls:
                if rng.random() < 0.5:
                    call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert not [e for e in found if isinstance(e, Exception)], found
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'taskctl'"
        assert ask(url, count)[0][0] <= 4
        changes = await tasks.changes(limit=1000)
        assert [entry.seq for entry in changes.items] == list(range(1, len(changes.items) + 1))


def test_on_uvloop_broken_connections_disturb_no_others(url: str) -> None:
    async def run() -> None:
        with Proxy(urlsplit(url).port or 5432) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)  # what the loop itself opens is open from here on
            writer.close()
            await asyncio.sleep(0.05)
            before = open_files()
            async with (
                open_tasks(through(proxy, url), settings=Settings(database_timeout=1.0)) as broken,
                open_tasks(url) as whole,
            ):
                await asyncio.gather(broken.add(NewTask(title="t")), whole.add(NewTask(title="t")))
                for _ in range(15):
                    proxy.refuse()
                    lost = await asyncio.gather(*(broken.list(TaskQuery(limit=n + 1)) for n in range(10)), return_exceptions=True)
                    assert all(isinstance(e, Unavailable) for e in lost), lost
                    # Sockets that get the numbers which the broken ones had.
                    for _ in range(5):
                        assert len((await whole.list()).items) == 2
                        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
                        writer.close()
                        await writer.wait_closed()
                    proxy.accept()
                    await soon(lambda: broken.get(1))
            await asyncio.sleep(0.05)
            assert open_files() <= before

    uvloop.run(run())


async def test_a_closed_service_says_so(url: str) -> None:
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="t"))
    for call in (tasks.get(1), tasks.list(), tasks.add(NewTask(title="u"))):
        with pytest.raises(Unavailable, match="being closed"):
            await call


async def test_workspaces_that_are_not_there_are_refused(url: str) -> None:
    with pytest.raises(NotFound, match="there is no workspace 'other'"):
        async with open_tasks(url, workspace="other"):
            pass
    async with open_tasks(url, workspace="other", checked=False) as tasks:
        for call in (tasks.get(1), tasks.list(), tasks.add(NewTask(title="u")), tasks.stats()):
            with pytest.raises(NotFound, match="there is no workspace 'other'"):
                await call


@given(st.lists(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=8), max_size=6))
def test_texts_among_which_is_looked_are_each_one_element(reading: Any, texts: list[str]) -> None:
    """A comma in one of them adds none, and nothing in them ends the list."""
    _, [array] = Dialect().among("x", texts)
    reading.execute("SELECT %s::text[]", [array])
    assert reading.fetchone() == (texts,)


def test_numbers_among_which_is_looked_are_numbers() -> None:
    assert Dialect().among("id", [1, -2, 3 << 40]) == ("id = ANY(?)", ["{1,-2,3298534883328}"])
