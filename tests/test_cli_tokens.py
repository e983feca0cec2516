"""`taskctl token` and `taskctl workspace`, as people and scripts use them."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskctl.access import id_of
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
    assert (again.code, again.out, again.err) == (0, "", f"{file} is there already; no token was made\n")
    assert file.read_text().strip() == token
    nowhere = shell("token", "create", "second", "--scope", "admin", "--file", str(tmp_path / "no" / "folder"))
    assert (nowhere.code, "cannot be written" in nowhere.err, "revoke it" in nowhere.err) == (2, True, True)
    shown = shell("token", "create", "third", "--scope", "admin", "--file", str(tmp_path / "third"), "-o", "json").json
    assert shown.keys() == {"token"}


def test_what_is_wrong_is_told_in_the_words_of_the_options(shell: Shell) -> None:
    for arguments, code, said in (
        (("token", "create", "ci"), 2, "scope"),
        (("token", "create", "ci", "--scope", "all"), 6, "tasks:read, tasks:write, admin"),
        (("token", "create", "a b", "--scope", "admin"), 6, "name"),
        (("token", "create", "ci", "--scope", "admin", "--expires", "someday"), 2, "--expires"),
        (("token", "create", "ci", "--scope", "admin", "--workspace", "nowhere"), 3, "nowhere"),
        (("token", "list", "--workspace", "nowhere"), 3, "nowhere"),
        (("task", "list", "--workspace", "nowhere"), 3, "nowhere"),
        (("task", "add", "x", "--workspace", "nowhere"), 3, "nowhere"),
        (("token", "revoke", "0" * 12), 3, "0" * 12),
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
    assert "REVOKED AT" in shell("token", "list").out


def test_a_workspace_has_tasks_of_its_own(shell: Shell) -> None:
    assert shell("workspace", "create", "garden").out == "created the workspace garden\n"
    assert shell("workspace", "create", "garden").code == 4
    assert shell("workspace", "list").out == "NAME\ndefault\ngarden\n"
    shell("--workspace", "garden", "task", "add", "mow")
    shell("task", "add", "read")
    assert shell("--workspace", "garden", "task", "list", "-o", "ids").out == shell("task", "list", "-o", "ids").out == "1\n"
    assert "mow" in shell("--workspace", "garden", "task", "list").out
    assert "mow" not in shell("task", "list").out
