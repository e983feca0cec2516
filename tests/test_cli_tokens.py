"""`taskctl token` and `taskctl workspace`, as people and scripts use them."""

import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from taskctl.access import id_of
from taskctl.cli.token import _instant
from tests.support import Server, Shell, serving


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def server(shell: Shell) -> Iterator[Server]:
    shell("task", "list")
    with serving(shell, "--auth", "tokens") as server:
        yield server


def test_stdout_is_the_token_alone_so_that_a_script_can_keep_it(shell: Shell) -> None:
    ran = shell("token", "create", "ci", "--scope", "tasks:read", "--scope", "tasks:write")
    id = id_of(ran.out.strip())
    assert id is not None
    assert ran.err == f"created ci ({id}) in the workspace default: tasks:read, tasks:write\n"
    quiet = shell("-q", "token", "create", "other", "--scope", "admin")
    assert (id_of(quiet.out.strip()) is None, quiet.err) == (False, "")
    assert shell("token", "create", "third", "--scope", "admin", "-o", "ids").code == 2  # it could never be seen
    assert len(shell("token", "list", "-o", "ids").out.split()) == 2
    made = shell("token", "create", "fourth", "--scope", "admin", "-o", "json", "-q").json
    assert id_of(made["secret"]) == made["token"]["id"]


def test_the_first_token_needs_none_and_then_works(shell: Shell, server: Server) -> None:
    token = shell("token", "create", "ci", "--scope", "admin").out.strip()
    remote = Shell(shell.home, TASKCTL_SERVER=server.url)
    refused = remote("api", "GET", "/me")
    assert (refused.code, "token" in refused.err) == (5, True)
    known = Shell(shell.home, TASKCTL_SERVER=server.url, TASKCTL_TOKEN=token)
    assert '"name":"ci"' in known("api", "GET", "/me").out
    assert [found["name"] for found in known("token", "list", "-o", "json").json] == ["ci"]


def test_a_token_goes_into_a_file_once(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "first"
    made = shell("token", "create", "first", "--scope", "admin", "--file", str(file))
    assert (made.code, made.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    token = file.read_text().strip()
    assert id_of(token) is not None
    again = shell("token", "create", "first", "--scope", "admin", "--file", str(file))
    assert (again.code, again.out, "is there already, and no token was made" in again.err) == (2, "", True)
    lenient = shell("token", "create", "first", "--scope", "admin", "--file", str(file), "--if-missing")
    assert (lenient.code, lenient.out, lenient.err) == (0, "", f"{file} is there already; no token was made\n")
    assert file.read_text().strip() == token
    assert "--scope must be" in shell.fails(6, "token", "create", "x", "--scope", "all", "--file", str(file), "--if-missing")
    assert "--file" in shell.fails(2, "token", "create", "x", "--scope", "admin", "--if-missing")
    made = shell("token", "create", "other", "--scope", "admin", "--file", str(tmp_path / "other"), "--if-missing")
    assert (made.code, id_of((tmp_path / "other").read_text().strip()) is not None) == (0, True)
    shown = shell("token", "create", "third", "--scope", "admin", "--file", str(tmp_path / "third"), "-o", "json").json
    assert shown.keys() == {"token"}


def test_a_file_that_cannot_be_written_costs_no_token_and_a_token_that_cannot_be_made_leaves_no_file(
    shell: Shell, tmp_path: Path
) -> None:
    create = ("token", "create", "one", "--scope", "admin")
    line = shell.fails(2, *create, "--file", str(tmp_path / "no" / "folder"))
    assert "cannot be written: No such file or directory; no token was made" in line
    assert shell("token", "list").out == ""
    shell(*create)
    assert "already" in shell.fails(4, *create, "--file", str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()
    (tmp_path / "file").touch()
    assert "remove it" in shell.fails(2, *create, "--file", str(tmp_path / "file"), "--if-missing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+1d", "2026-03-29T14:30"),  # 24 hours, on a day that has 23
        ("+90d", "2026-06-26T14:30"),
        ("+1w", "2026-04-04T14:30"),
        ("+2h", "2026-03-28T15:30"),
        ("+1m", "2026-04-28T13:30"),
        ("tomorrow", "2026-03-30T00:00"),
        ("today", "2026-03-29T00:00"),
        ("2026-12-01", "2026-12-02T00:00"),
        ("mon", "2026-03-31T00:00"),
        ("2026-12-01T15:00", "2026-12-01T15:00"),
        ("2026-12-01 15:00:30", "2026-12-01T15:00:30"),
        ("2026-12-01T14:00:00Z", "2026-12-01T15:00"),
    ],
)
def test_an_end_is_so_long_from_now_or_the_end_of_a_day_where_the_user_is(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = _instant(text, datetime.fromisoformat("2026-03-28T13:30").astimezone())
        assert found == datetime.fromisoformat(expected).astimezone()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_wrong_is_told_in_the_words_of_the_options(shell: Shell) -> None:
    for arguments, code, said in (
        (("token", "create", "ci"), 2, "scope"),
        (("token", "create", "ci", "--scope", "all"), 6, "--scope must be of tasks:read, tasks:write, admin"),
        (("token", "create", "a b", "--scope", "admin"), 6, "NAME must be"),
        (("token", "create", "ci", "--scope", "admin", "--expires", "someday"), 2, "--expires: a date"),
        (("token", "create", "ci", "--scope", "admin", "--expires", "-2h"), 6, "--expires is past"),
        (("token", "create", "ci", "--scope", "admin", "--expires", "+99999y"), 2, "out of the calendar"),
        (("token", "create", "ci", "--scope", "admin", "--expires", "9999-12-31"), 2, "out of the calendar"),
        (("token", "create", "ci", "--scope", "admin", "--workspace", "nowhere"), 3, "nowhere"),
        (("token", "list", "--workspace", "nowhere"), 3, "nowhere"),
        (("task", "list", "--workspace", "nowhere"), 3, "nowhere"),
        (("task", "add", "x", "--workspace", "nowhere"), 3, "nowhere"),
        (("token", "revoke", "0" * 12), 3, "0" * 12),
        (("token", "revoke", "ci"), 3, "`taskctl token list` shows the ids"),
        (("workspace", "create", "Upper"), 6, "a-z"),
    ):
        ran = shell(*arguments)
        assert (ran.code, ran.out) == (code, ""), arguments
        assert said in ran.err


def test_tokens_are_listed_and_revoked_by_their_ids(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        shell("token", "create", name, "--scope", "tasks:read", "--expires", "+30d")
    ids = shell("token", "list", "-o", "ids").out.split()
    assert len(ids) == 3
    assert shell("token", "revoke", *ids[:2]).out == f"revoked {ids[0]}\nrevoked {ids[1]}\n"
    partly = shell("token", "revoke", ids[2], "0" * 12, "-o", "json")
    assert (partly.code, partly.out) == (8, f'{{"revoked":["{ids[2]}"]}}\n')
    assert [token["revoked_at"] is None for token in shell("token", "list", "-o", "json").json] == [False] * 3
    shell("token", "create", "d", "--scope", "tasks:read")
    header, *lines = shell("token", "list").out.splitlines()
    assert "STATE" in header
    assert [line.split()[2] for line in lines] == ["good", "revoked", "revoked", "revoked"]
    wide = shell("token", "list", "-o", "wide").out.splitlines()[0]
    assert all(name in wide for name in ("REVOKED BY", "MAKER", "WORKSPACE"))


def test_a_workspace_that_is_named_at_a_server_is_that_of_the_token_or_nothing_is_done(shell: Shell, server: Server) -> None:
    shell("workspace", "create", "garden")
    token = shell("token", "create", "gardener", "--scope", "tasks:write", "--workspace", "garden").out.strip()
    garden = Shell(shell.home, TASKCTL_SERVER=server.url, TASKCTL_TOKEN=token)
    line = garden.fails(2, "task", "add", "X", "--workspace", "default")
    assert line == f"--workspace: the token {id_of(token)} is for the workspace 'garden', and not 'default'"
    for command in (("task", "list"), ("stats",), ("api", "POST", "/tasks", "-d", '{"title":"X"}')):
        line = garden.fails(2, *command, env={"TASKCTL_WORKSPACE": "default"})
        assert line.startswith("TASKCTL_WORKSPACE: the token")
    assert garden("task", "list").out == ""
    assert garden("task", "add", "X", "-o", "ids", env={"TASKCTL_WORKSPACE": "garden"}).out == "1\n"
    assert garden("api", "GET", "/tasks", "--workspace", "garden").code == 0
    with serving(shell) as open_to_all:
        everybody = Shell(shell.home, TASKCTL_SERVER=open_to_all.url)
        assert everybody("task", "list", "--workspace", "default").code == 0
        assert "the server shows the workspace 'default'" in everybody.fails(2, "task", "list", "--workspace", "garden")


def test_a_workspace_has_tasks_of_its_own(shell: Shell) -> None:
    assert shell("workspace", "create", "garden").out == "created the workspace garden\n"
    assert shell("workspace", "create", "garden").code == 4
    assert shell("workspace", "list").out == "NAME\ndefault\ngarden\n"
    shell("--workspace", "garden", "task", "add", "mow")
    shell("task", "add", "read")
    assert shell("--workspace", "garden", "task", "list", "-o", "ids").out == shell("task", "list", "-o", "ids").out == "1\n"
    assert "mow" in shell("--workspace", "garden", "task", "list").out
    assert "mow" not in shell("task", "list").out
