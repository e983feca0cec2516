"""Where the command line keeps tasks: which setting decides, places that cannot be used, and a server instead of a file."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from taskctl.storage.sqlite import APPLICATION_ID
from tests.support import Ran, Shell, serving


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    home = tmp_path / "home"
    home.mkdir()
    return Shell(home)


REVISION = "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES"


def tree(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, to the byte."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -------------------------------------------------------------------------------------------------------------- settings


def test_the_default_file_is_in_the_users_data_folder_and_theirs_alone(shell: Shell) -> None:
    assert shell("task", "add", "x", "-o", "ids").out == "1\n"
    file = shell.home / "data" / "taskctl" / "tasks.db"
    assert file.is_file()
    assert file.parent.stat().st_mode & 0o077 == 0
    assert [path for path in shell.home.iterdir() if path.name != "data"] == []


def test_a_flag_comes_before_the_environment_and_that_before_the_file(shell: Shell) -> None:
    config = shell.home / "config" / "taskctl" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'database_url = "sqlite:///{shell.home}/file.db"\noutput = "ids"\n', "utf-8")
    env = {"TASKCTL_DATABASE_URL": f"sqlite:///{shell.home}/environment.db"}
    flag = ["--database-url", f"sqlite:///{shell.home}/flag.db"]
    assert shell("task", "add", "by the file").out == "1\n"
    assert shell("task", "add", "by the environment", env=env).out == "1\n"
    assert shell("task", "add", "by the flag", *flag, env=env).out == "1\n"
    assert shell("task", "add", "-o", "table", "again", *flag, env={**env, "TASKCTL_OUTPUT": "json"}).out == "added 2  again\n"
    assert sorted(path.name for path in shell.home.glob("*.db")) == ["environment.db", "file.db", "flag.db"]
    elsewhere = shell.home / "mine.toml"
    elsewhere.write_text(f'database_url = "sqlite:///{shell.home}/mine.db"\n', "utf-8")
    assert shell("task", "add", "elsewhere", env={"TASKCTL_CONFIG": str(elsewhere)}).out == "added 1  elsewhere\n"


def test_a_server_and_a_database_at_the_same_level_is_exit_2_and_at_different_levels_the_higher_one_counts(shell: Shell) -> None:
    server, database = "http://127.0.0.1:1", f"sqlite:///{shell.home}/x.db"
    shell.fails(2, "task", "list", "--server", server, "--database-url", database)
    shell.fails(2, "task", "list", env={"TASKCTL_SERVER": server, "TASKCTL_DATABASE_URL": database})
    assert shell("task", "list", "--database-url", database, env={"TASKCTL_SERVER": server}).code == 0
    assert "127.0.0.1:1" in shell.fails(7, "task", "list", "--server", server, env={"TASKCTL_DATABASE_URL": database})
    assert server in shell.fails(2, "db", "check", "--server", server)
    assert shell.fails(2, "serve", "--server", server) == (
        f"--server names the server {server}, and `serve` needs a database; leave it out"
    )
    assert shell.fails(2, "serve", env={"TASKCTL_SERVER": server}) == (
        f"TASKCTL_SERVER names the server {server}, and `serve` needs a database; unset it, or add --database-url"
    )


def test_settings_that_cannot_be_used_are_named(shell: Shell) -> None:
    config = shell.home / "config" / "taskctl" / "config.toml"
    config.parent.mkdir(parents=True)
    for text, said in (
        ('colour = "red"', "'colour', which is not a setting; did you mean color?"),
        ('tokenfile = "x"', "did you mean token_file?"),
        ("output = 3", "output"),
        ('output = "xml"', "table, wide, json"),
        ("output", "TOML"),
        ("port = 70000", "65535"),
    ):
        config.write_text(text, "utf-8")
        line = shell.fails(2, "task", "list")
        assert said in line
    config.unlink()
    assert "TASKCTL_DATABASE_TIMEOUT" in shell.fails(2, "task", "list", env={"TASKCTL_DATABASE_TIMEOUT": "soon"})
    line = shell.fails(2, "task", "list", "--database-url", "mysql://user:secret@host/x")
    assert "sqlite:///" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("setting", "address", "said", "command"),
    [
        ("database_url", "mysql://h/x", "mysql://h/x is not the address of a database", ["task", "list"]),
        ("database_url", "sqlite://[", "sqlite://[ is not the address of a database", ["db", "check"]),
        ("database_url", "postgresql://h:x/d", "the address of the PostgreSQL database cannot be used", ["db", "upgrade"]),
        ("database_url", "http://[", "http://[ is not the address of a database", ["task", "list"]),
        ("server", "somewhere", "'somewhere' is not the address of a server", ["task", "list"]),
        (
            "server",
            "http://u:secret@h",
            "'h' is not the address of a server; an address has no user and password here",
            ["api", "GET", "/tasks"],
        ),
        ("redis_url", "redis://h/x", "the address of Redis names a database that is no number", ["serve", "--port", "0"]),
        ("redis_url", "redis://h/1?db=2", "the address of Redis names a database twice", ["serve", "--port", "0"]),
    ],
)
def test_an_address_that_is_none_is_told_with_where_it_was_set(
    shell: Shell, setting: str, address: str, said: str, command: list[str]
) -> None:
    flag, variable, file = f"--{setting.replace('_', '-')}", f"TASKCTL_{setting.upper()}", shell.home / "mine.toml"
    if command[0] == "serve":
        shell("db", "upgrade")
    assert shell.fails(2, *command, flag, address).startswith(f"{flag}: {said}")
    assert shell.fails(2, *command, env={variable: address}).startswith(f"{variable}: {said}")
    file.write_text(f"{setting} = '{address}'", "utf-8")
    assert shell.fails(2, *command, env={"TASKCTL_CONFIG": str(file)}).startswith(f"{setting} in {file}: {said}")


# ------------------------------------------------------------------------------------------- places that cannot be used


@pytest.mark.parametrize(
    "command",
    [["task", "add", "x"], ["task", "list"], ["db", "upgrade"], ["db", "check"]],
    ids=" ".join,
)
def test_a_place_that_cannot_hold_tasks_is_one_line_and_nothing_changes(shell: Shell, command: list[str]) -> None:
    folder = shell.home / "folder"
    folder.mkdir()
    (shell.home / "text.db").write_text("this is not a database\n" * 100)
    with closing(sqlite3.connect(shell.home / "other.db")) as raw:
        raw.execute("CREATE TABLE songs (name)")
    with closing(sqlite3.connect(shell.home / "alembic.db")) as raw:  # alembic is not ours alone
        raw.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('0001')")
    with closing(sqlite3.connect(shell.home / "newer.db")) as raw:
        raw.executescript(f"PRAGMA application_id = {APPLICATION_ID}; {REVISION} ('9999')")
    before = tree(shell.home)
    for name, said in (
        ("folder", "folder"),
        ("missing/x.db", "missing"),
        ("text.db", "not a SQLite"),
        ("other.db", "another program"),
        ("alembic.db", "another program"),
    ):
        line = shell.fails(7, *command, "--database-url", f"sqlite:///{shell.home}/{name}")
        assert said in line
        assert name.split("/")[0] in line
    newer = shell(*command, "--database-url", f"sqlite:///{shell.home}/newer.db")
    assert newer.code == (1 if command == ["db", "check"] else 7)
    assert "newer taskctl" in newer.out + newer.err
    assert "Traceback" not in newer.err
    gates = {name for name in tree(shell.home) if name.endswith("-gate")}
    assert {name: data for name, data in tree(shell.home).items() if name not in gates} == before


def test_an_old_file_is_named_with_the_command_that_mends_it(shell: Shell) -> None:
    url = f"sqlite:///{shell.home}/tasks.db"
    with closing(sqlite3.connect(shell.home / "tasks.db")) as raw:
        raw.executescript(f"PRAGMA application_id = {APPLICATION_ID}; {REVISION} ('0001')")
    assert "taskctl db upgrade" in shell.fails(7, "task", "list", "--database-url", url)
    assert shell("db", "current", "--database-url", url, "-o", "json").json["current"] == "0001"


def test_db_commands_on_a_file_that_is_not_there_yet(shell: Shell) -> None:
    url = f"sqlite:///{shell.home}/tasks.db"
    assert shell("db", "current", "-o", "json", "--database-url", url).json["current"] is None
    assert "no database" in shell.fails(7, "db", "check", "--database-url", url)
    assert not (shell.home / "tasks.db").exists()
    assert shell("db", "upgrade", "--database-url", url).code == 0
    assert "already" in shell("db", "upgrade", "--database-url", url).out
    assert shell("task", "add", "x", "-o", "ids", "--database-url", url).out == "1\n"
    assert set(shell("db", "check", "-o", "json", "--database-url", url).json.values()) == {"ok"}


def test_a_check_finds_what_is_wrong(shell: Shell) -> None:
    url = f"sqlite:///{shell.home}/tasks.db"
    for title in "abc":
        shell("task", "add", title, "--database-url", url)
    with closing(sqlite3.connect(shell.home / "tasks.db")) as raw:
        raw.execute("DELETE FROM log WHERE seq = 2")
        raw.commit()
    ran = shell("db", "check", "--database-url", url)
    assert (ran.code, "missing" in ran.out) == (1, True)


def test_a_database_that_somebody_keeps_busy_is_waited_for_only_so_long(shell: Shell) -> None:
    url = f"sqlite:///{shell.home}/tasks.db"
    shell("task", "add", "x", "--database-url", url)
    with closing(sqlite3.connect(shell.home / "tasks.db", isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        assert "busy" in shell.fails(7, "task", "add", "y", "--database-url", url, "--database-timeout", "0.2")
        assert shell("task", "list", "-o", "ids", "--database-url", url).out == "1\n"


# -------------------------------------------------------------------------------------------------- a server, or a file

SCRIPT: list[tuple[str, ...]] = [
    ("task", "add", "Buy", "oat", "milk", "-p", "home", "-l", "errand", "--due", "2020-01-02", "--priority", "high"),
    ("task", "add", "שלום 🧑‍🚀", "-d", "two\nlines", "-o", "json"),
    ("task", "edit", "1", "2", "-l", "+new", "--due", "2999-12-01T10:00:00Z"),
    ("task", "list", "-f", "label:new or overdue", "-o", "ndjson"),
    ("task", "start", "1"),
    ("task", "done", "1", "99", "2", "-o", "json"),
    ("task", "start", "1"),
    ("task", "list", "--all", "--sort", "title,-id"),
    ("task", "list", "-f", "due<"),
    ("task", "show", "2"),
    ("task", "rm", "2", "--if-version", "1"),
    ("task", "rm", "2"),
    ("task", "history", "2", "-o", "json"),
    ("project", "list"),
    ("stats",),
    ("task", "add", "", "-o", "json"),
]

CHANGING = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
    (r'"(actor)":("[^"]*"|null)', r'"\1":SOMEBODY'),
    (r'"source":"(cli|api)"', '"source":WAY'),
    (r'"request_id":"[^"]+",', ""),
    (r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]+Z", "NOW"),
    (r"((created|updated|completed|started) at +)20[0-9-]{8} [0-9:]{5}", r"\1NOW"),
)


def normalised(ran: Ran) -> Ran:
    """Return what a command printed, without what is different each time."""
    out, err = ran.out, ran.err
    for pattern, name in CHANGING:
        out, err = re.sub(pattern, name, out), re.sub(pattern, name, err)
    return Ran(ran.code, out, err)


def test_with_a_server_the_same_commands_print_the_same(shell: Shell) -> None:
    here, there = shell.home / "here.db", shell.home / "there.db"
    served = Shell(shell.home, TASKCTL_DATABASE_URL=f"sqlite:///{there}")
    with serving(served) as server:
        for command in SCRIPT:
            local = shell(*command, env={"TASKCTL_DATABASE_URL": f"sqlite:///{here}"})
            remote = shell(*command, env={"TASKCTL_SERVER": server.url})
            assert normalised(remote) == normalised(local), command
    tables = []
    for file in (here, there):
        with closing(sqlite3.connect(file)) as raw:
            tables.append(raw.execute("SELECT seq, entity_id, op, version FROM log ORDER BY seq").fetchall())
    assert tables[0] == tables[1]
    assert len(tables[0]) > 5


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:////tmp/a%00b", "sqlite://"])
def test_what_names_no_file_is_refused(shell: Shell, url: str) -> None:
    assert "names no file" in shell.fails(2, "task", "add", "lost", "--database-url", url)
    assert not tree(shell.home)


def test_an_upgrade_that_was_ended_before_its_first_revision_goes_on(shell: Shell) -> None:
    place = ("--database-url", f"sqlite:///{shell.home}/tasks.db")
    with closing(sqlite3.connect(shell.home / "tasks.db")) as raw:
        raw.executescript(f"PRAGMA application_id = {APPLICATION_ID}; {REVISION.partition(';')[0]};")
    assert "taskctl db upgrade" in shell.fails(7, "task", "list", *place)
    assert shell("db", "upgrade", *place).code == 0
    assert shell("task", "add", "x", *place).code == 0


def test_a_problem_can_be_told_whatever_is_in_a_name(shell: Shell) -> None:
    ran = shell("task", "add", "x", "-F", b"\xff", "-o", "json")
    assert (ran.code, ran.problems[0]["code"]) == (2, "usage")
