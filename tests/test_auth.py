"""The client's side of tokens: where they come from, where they go and where not, and how they are kept."""

import asyncio
import json
import os
import re
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest
import trustme
from aiohttp import web
from aiohttp.typedefs import Handler

from taskctl import NewTask, Settings, TaskService, credentials, open_tasks
from taskctl.access import new_secret
from taskctl.config import load
from taskctl.credentials import Credentials, origin_of, read_token
from taskctl.errors import ConfigError, OutcomeUnknown, TaskctlError, Unavailable
from taskctl.remote import RemoteTasks, require_private
from tests.support import SECONDS, Ran, Server, Shell, serving

ORIGIN = "https://tasks.example"
NO_KEYRING = "keyring.backends.null.Keyring"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return the shell of somebody who has the database."""
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


@pytest.fixture
def server(shell: Shell) -> Iterator[Server]:
    with serving(shell, "--auth", "tokens") as server:
        yield server


@pytest.fixture
def user(tmp_path: Path, server: Server) -> Shell:
    """Return the shell of somebody else, who has a server."""
    (tmp_path / "user").mkdir()
    return Shell(tmp_path / "user", TASKCTL_SERVER=server.url, PYTHON_KEYRING_BACKEND=NO_KEYRING)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's folder of this process, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    return tmp_path / "config" / "taskctl"


def created(shell: Shell, *scopes: str, name: str = "ada", expires: str = "") -> str:
    options = [word for scope in scopes for word in ("--scope", scope)] + (["--expires", expires] if expires else [])
    return shell("token", "create", name, "-q", *options).out.strip()


def id_in(secret: str) -> str:
    return secret.split("_")[2]


def bare(secret: str) -> str:
    """Return the part of a token that nobody may see."""
    return secret.split("_")[3]


def kept(user: Shell) -> Path:
    return user.home / "config" / "taskctl" / "credentials.json"


def logged_in(user: Shell, secret: str, *arguments: str) -> Ran:
    ran = user("auth", "login", *arguments, stdin=f"{secret}\n")
    assert ran.code == 0, ran
    return ran


@asynccontextmanager
async def site(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve a handler for every path, and yield the address by `localhost`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        place = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await place.start()
        assert place._server is not None
        port = place._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        yield f"{'https' if tls else 'http'}://localhost:{port}"
    finally:
        await runner.cleanup()


class Listener:
    """A server that notes which token each request shows, and answers as a new workspace does."""

    def __init__(self) -> None:
        self.shown: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.Response:
        self.shown.append(request.headers.get("Authorization"))
        if request.path.endswith("/me"):
            return web.json_response({"token": "x" * 12, "name": "n", "workspace": "w", "scopes": ["admin"], "expires_at": None})
        return web.json_response({"items": [], "next_cursor": None})


# ----------------------------------------------------------------------------------------------- login, status and logout


def test_whoever_logs_in_works_on_the_server_until_they_log_out(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "tasks:write", expires="+90d")
    line = user.fails(5, "task", "add", "early")
    assert f"`taskctl auth login {server.url}` stores a token" in line
    assert "the first one is made where the database is" in user.fails(5, "token", "create", "me", "--scope", "admin")
    said = logged_in(user, secret)
    assert re.search(
        rf"^logged in to {server.url} as ada in the workspace default: tasks:write, until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC$",
        said.out,
        re.MULTILINE,
    )
    assert f"{id_in(secret)} is in {kept(user)}" in said.out
    assert user("task", "add", "milk", "-o", "ids").out == "1\n"
    for arguments in (("api", "GET", "/me"), ("task", "history", "1"), ("project", "list"), ("stats",)):
        assert user(*arguments).code == 0, arguments
    out = user("auth", "logout")
    assert (out.code, out.out, "stays good" in out.err) == (0, "", True)
    assert user.fails(5, "task", "list") == line
    again = user("auth", "logout")
    assert (again.code, "no token stored" in again.err) == (0, True)
    for verb in ("login", "logout"):
        assert f"taskctl auth {verb} https://HOST" in user.fails(2, "auth", verb, env={"TASKCTL_SERVER": ""})


def test_every_command_that_speaks_to_a_server_shows_the_token(shell: Shell, user: Shell) -> None:
    logged_in(user, created(shell, "admin"))
    for arguments in (
        ("task", "add", "x"), ("task", "list"), ("label", "list"), ("cache", "stats"), ("cache", "clear"),
        ("token", "list"), ("workspace", "list"), ("workspace", "create", "garden"), ("api", "GET", "/tokens"),
        ("db", "seed", "--count", "1"),
    ):  # fmt: skip
        ran = user(*arguments)
        assert ran.code == 0, (arguments, ran)


def test_status_tells_of_each_token_what_it_is_good_for_and_not_what_it_is(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "tasks:read", "tasks:write")
    logged_in(user, secret)
    [row] = user("auth", "status", "-o", "json").json
    assert row == {
        "server": server.url,
        "token": id_in(secret),
        "name": "ada",
        "workspace": "default",
        "scopes": ["tasks:read", "tasks:write"],
        "expires_at": None,
        "source": str(kept(user)),
        "state": "good",
        "detail": None,
    }
    with serving(shell, "--auth", "tokens") as other:  # the same tokens, at another origin
        logged_in(user, secret, other.url)
        rows = user("auth", "status", "-o", "json", env={"TASKCTL_SERVER": ""}).json
        assert [(row["server"], row["state"]) for row in rows] == [(server.url, "good"), (other.url, "good")]
    admin = {"TASKCTL_TOKEN": created(shell, "admin", name="root")}
    assert user("token", "revoke", id_in(secret), env=admin).code == 0
    ran = user("auth", "status", "-o", "json", env={"TASKCTL_SERVER": ""})
    rows = json.loads(ran.out)
    assert [(row["server"], row["state"]) for row in rows] == [(server.url, "revoked"), (other.url, "unavailable")]
    assert [row["detail"] is not None for row in rows] == [True, True]
    assert ran.code == 5
    table = user("auth", "status", env=admin)
    assert [line.split()[:2] for line in table.out.splitlines()[1:]] == [
        [server.url, "good"],
        [server.url, "revoked"],
        [other.url, "unavailable"],
    ]
    assert "TASKCTL_TOKEN" in table.out.splitlines()[1]
    assert f"{server.url}: the token has been revoked" in table.err
    assert bare(secret) not in ran.out + ran.err + table.out + table.err


def test_status_ends_with_5_where_nobody_is_logged_in_and_with_7_where_nobody_can_tell(shell: Shell, user: Shell) -> None:
    [row] = json.loads(user("auth", "status", "-o", "json").out)
    assert (row["state"], row["token"], user("auth", "status").code) == ("none", None, 5)
    assert "no token is stored" in user.fails(5, "auth", "status", env={"TASKCTL_SERVER": ""})
    assert user("auth", "status", env={"TASKCTL_SERVER": "http://127.0.0.1:9"}).code == 7
    with serving(shell) as open_to_all:
        ran = user("auth", "status", "-o", "json", env={"TASKCTL_SERVER": open_to_all.url})
        assert (ran.code, ran.json[0]["state"]) == (0, "not needed")
        ran = user("auth", "login", stdin=new_secret()[1], env={"TASKCTL_SERVER": open_to_all.url})
        assert (ran.code, "asks for no token" in ran.err, kept(user).exists()) == (0, True, False)


def test_status_of_one_server_is_about_that_one_alone(shell: Shell, user: Shell, server: Server) -> None:
    logged_in(user, created(shell, "tasks:read"))
    with serving(shell, "--auth", "tokens") as other:
        logged_in(user, created(shell, "tasks:read", name="bob"), other.url)
    nowhere = {"TASKCTL_SERVER": ""}
    assert user("auth", "status", env=nowhere).code == 7
    for arguments in ((server.url,), ("--server", server.url)):
        ran = user("auth", "status", *arguments, "-o", "json", env=nowhere)
        assert (ran.code, [row["server"] for row in ran.json]) == (0, [server.url])
    assert user("auth", "status", other.url, env=nowhere).code == 7
    assert "twice" in user.fails(2, "auth", "status", server.url, "--server", server.url)


def test_a_token_that_is_not_sent_in_the_clear_is_withheld_and_its_server_is_not_said_to_be_away(user: Shell) -> None:
    secret = new_secret()[1]
    far = {"TASKCTL_SERVER": "http://tasks.invalid", "TASKCTL_TOKEN": secret}
    ran = user("auth", "status", "-o", "json", env=far)
    [row] = json.loads(ran.out)
    assert (ran.code, row["state"], row["token"]) == (5, "withheld", id_in(secret))
    assert "in the clear" in row["detail"]


def test_verbose_tells_of_every_request_and_where_its_token_is_from(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "admin")
    env = {"TASKCTL_TOKEN": secret}
    ms, id = r"^ *\d+\.\d\d ms  ", r"request [0-9a-f]{32}"
    ran = user("-v", "task", "list", "-f", "milk", env=env)
    assert re.fullmatch(rf"{ms}GET {server.url}/api/v1/tasks\?\S*filter=\S+  200  {id}, token from TASKCTL_TOKEN\n", ran.err), (
        ran.err
    )
    assert f"id={re.findall(id, ran.err)[0].split()[1]}" in server.logged("GET /api/v1/tasks 200 .*")[0]
    logged_in(user, secret)
    for arguments, said in (
        (("task", "add", "x"), "POST .*/batch  200"),
        (("api", "GET", "/me"), "GET .*/me  200"),
        (("api", "GET", "/nothing"), "GET .*/nothing  404"),
        (("token", "list"), "GET .*/tokens  200"),
        (("cache", "stats"), "GET .*/cache  200"),
        (("auth", "status"), "GET .*/me  200"),
    ):
        ran = user("-v", *arguments)
        assert re.search(rf"{ms}{said}  {id}, token from {kept(user)}$", ran.err, re.MULTILINE), ran.err
    ran = user("-v", "task", "list", "--server", "http://127.0.0.1:9", "--server-timeout", "0.1")
    assert re.search(rf"{ms}GET http://127.0.0.1:9/\S+  no answer  request -, no token$", ran.err, re.MULTILINE), ran.err


def test_a_problem_for_programs_has_the_id_under_which_the_server_knows_it(shell: Shell, user: Shell, server: Server) -> None:
    for arguments in (("task", "list"), ("task", "add", "x"), ("token", "list"), ("cache", "stats"), ("auth", "login")):
        ran = user(*arguments, "-o", "json", stdin=new_secret()[1])
        [problem] = ran.problems
        assert (ran.code, problem["status"]) == (5, 401)
        assert server.logged(rf"401 .*id={problem['request_id']}\b")
    env = {"TASKCTL_TOKEN": created(shell, "tasks:write")}
    [problem] = user("task", "show", "99", "-o", "json", env=env).problems
    assert server.logged(rf"404 .*id={problem['request_id']}\b")
    assert "request_id" not in shell("task", "show", "99", "-o", "json").problems[0]


@pytest.mark.parametrize(("given", "said"), [("", "no token was given"), ("\n", "no token was given"), ("tc_api_x", "no token")])
def test_what_cannot_be_a_token_is_sent_nowhere_and_not_repeated(user: Shell, server: Server, given: str, said: str) -> None:
    assert said in user.fails(2, "auth", "login", stdin=given)
    assert "/me" not in "".join(server.log)


def test_a_slip_of_the_pen_is_seen_before_anybody_is_asked(user: Shell, server: Server) -> None:
    secret = new_secret()[1]
    slipped = secret[:40] + ("a" if secret[40] != "a" else "b") + secret[41:]
    line = user.fails(2, "auth", "login", stdin=slipped)
    assert "a character is wrong or missing" in line
    assert bare(slipped) not in line
    assert "/me" not in "".join(server.log)


def test_a_token_that_the_server_does_not_know_is_not_stored(user: Shell) -> None:
    line = user.fails(5, "auth", "login", stdin=new_secret()[1])
    assert line == "there is no such token; nothing was stored"
    assert not kept(user).exists()


def test_which_server_is_said_once(user: Shell, server: Server) -> None:
    assert "twice" in user.fails(2, "auth", "login", server.url, "--server", server.url)
    assert "which server?" in user.fails(2, "auth", "login", env={"TASKCTL_SERVER": ""})
    secret = new_secret()[1]
    assert bare(secret) not in user.fails(2, "auth", "login", secret)


def test_on_a_terminal_the_token_is_asked_for_and_not_shown(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "tasks:read")
    command, *rest = [str(word) for word in user.argv("auth", "login", server.url)]
    process: pexpect.spawn[str] = pexpect.spawn(
        command,
        rest,
        env={**user.environment, "TASKCTL_SERVER": ""},
        cwd=str(user.home),
        timeout=SECONDS,
        encoding="utf-8",
        dimensions=(24, 250),
    )
    process.expect_exact(f"Token for {server.url}: ")
    process.waitnoecho()
    process.sendline(secret)
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0, process.before
    assert process.before is not None
    assert "logged in to" in process.before
    assert bare(secret) not in process.before
    assert user("task", "list").code == 0


# ------------------------------------------------------------------------------------------------------- where it is from


def test_a_token_comes_from_the_environment_or_a_file(shell: Shell, user: Shell, tmp_path: Path) -> None:
    secret = created(shell, "tasks:read")
    file = tmp_path / "token"
    file.write_text(f"\n {secret} \n")
    file.chmod(0o600)
    assert user("task", "list", env={"TASKCTL_TOKEN": secret}).code == 0
    assert user("task", "list", env={"TASKCTL_TOKEN_FILE": str(file)}).code == 0
    assert user("task", "list", "--token-file", str(file)).code == 0
    config = user.home / "config" / "taskctl" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'token_file = "{file}"')
    assert user("task", "list").code == 0
    assert "both set" in user.fails(2, "task", "list", env={"TASKCTL_TOKEN": secret, "TASKCTL_TOKEN_FILE": str(file)})
    assert user("task", "list", "--token-file", str(file), env={"TASKCTL_TOKEN": new_secret()[1]}).code == 0
    line = user.fails(5, "task", "list", env={"TASKCTL_TOKEN": new_secret()[1]})
    assert "the token is from TASKCTL_TOKEN" in line
    assert "`taskctl auth login" in line


def test_a_token_on_a_command_line_or_in_the_settings_is_refused_with_the_ways(user: Shell, tmp_path: Path) -> None:
    secret = new_secret()[1]
    config = tmp_path / "config.toml"
    config.write_text(f'token = "{secret}"')
    for line in (
        user.fails(2, "task", "list", "--token", secret),
        user.fails(2, "--token=" + secret, "task", "list"),
        user.fails(2, "api", "GET", "/me", "-H", f"authorization: Bearer {secret}"),
        user.fails(2, "api", "GET", "/me", "-H", f"X-Token: {secret}"),
        user.fails(2, "api", "GET", f"/me?access_token={secret}"),
        user.fails(2, "api", "DELETE", f"/tokens/{secret.replace('t', '%74', 1)}"),
        user.fails(2, "task", "list", env={"TASKCTL_CONFIG": str(config)}),
    ):
        assert "`taskctl auth login` stores a token, TASKCTL_TOKEN holds one, and token_file names a file that does" in line
        assert bare(secret) not in line


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secret = new_secret()[1]
    file = tmp_path / "token"
    file.write_text(secret)
    for mode in (0o644, 0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(ConfigError, match=rf"^--token-file: others may read .* \({mode:04o}?.*chmod 600|chmod 600"):
            read_token(str(file), "--token-file")
    for mode in (0o600, 0o400):
        file.chmod(mode)
        assert read_token(str(file), "--token-file") == secret
    (tmp_path / "link").symlink_to(file)  # so Kubernetes lays them out
    assert read_token(str(tmp_path / "link"), "x") == secret


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_token_file_of_another_owner_may_be_open_to_a_group_but_not_to_everybody(tmp_path: Path) -> None:
    secret = new_secret()[1]
    file = tmp_path / "token"
    file.write_text(secret)
    os.chown(file, 12345, 12345)
    file.chmod(0o440)
    assert read_token(str(file), "x") == secret
    file.chmod(0o444)
    with pytest.raises(ConfigError, match="others may read"):
        read_token(str(file), "x")


def test_any_mode_will_do_on_a_file_system_that_is_mounted_read_only(tmp_path: Path) -> None:
    secret = new_secret()[1]
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(secret)
    (tmp_path / "secrets" / "token").chmod(0o444)
    read = f"from taskctl.credentials import read_token; print(read_token('{tmp_path}/secrets/token', 'x'))"
    script = (
        f"mount --bind {tmp_path}/secrets {tmp_path}/secrets && mount -o remount,bind,ro {tmp_path}/secrets || exit 77; "
        f'{Shell.argv()[0]!s} -c "{read}"'
    )
    ran = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False)
    if ran.returncode in (1, 77) and not ran.stdout and "Error" not in ran.stderr:
        pytest.skip("nothing can be mounted here")
    assert ran.stdout.strip() == secret, ran.stderr


@pytest.mark.parametrize("text", ["", "hello", "two\nlines", "tc_api_short"])
def test_a_file_without_a_token_is_told_and_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no token") as caught:
        read_token(str(file), "--token-file")
    assert not text or text not in caught.value.detail
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_token(str(tmp_path / "none"), "--token-file")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_token(str(tmp_path), "--token-file")


# ------------------------------------------------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    ("flags", "environment", "file", "belongs"),
    [
        ({}, {"SERVER": "https://a"}, "", ["https://a"]),
        ({"server": "https://b"}, {"SERVER": "https://a"}, "", ["https://a"]),
        ({"server": "https://b"}, {}, 'server = "https://c"', ["https://c"]),
        ({"server": "https://b"}, {}, "", [None]),
        ({}, {}, 'server = "https://c"', ["https://c"]),
        ({}, {"SERVER": "https://a"}, 'server = "https://c"\ntoken_file = "f"', ["https://a", "https://c"]),
        ({"token_file": "f"}, {"SERVER": "https://a"}, "", ["https://a", "https://a"]),
    ],
)
def test_a_token_belongs_to_the_server_of_its_level_or_of_a_lower_one(
    tmp_path: Path, flags: dict[str, Any], environment: dict[str, str], file: str, belongs: list[str | None]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(file)
    secret = new_secret()[1]
    loaded = load(flags, {"TASKCTL_TOKEN": secret, **{f"TASKCTL_{name}": value for name, value in environment.items()}}, path)
    assert [token.server for token in loaded.tokens] == belongs
    assert bare(secret) not in repr(loaded) + repr(loaded.settings) + str(loaded)


def test_another_server_does_not_get_the_token_of_the_environment(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "tasks:read")
    named = {"TASKCTL_TOKEN": secret}
    assert user("task", "list", env=named).code == 0
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    line = user.fails(5, "task", "list", "--server", elsewhere, env=named)
    assert line.startswith("this needs a token")
    assert f"TASKCTL_TOKEN was not sent, it belongs to {server.url}" in line
    assert user("task", "list", "--server", server.url + "/", env=named).code == 0
    assert user("task", "list", "--server", elsewhere, env={**named, "TASKCTL_SERVER": ""}).code == 0
    logged_in(user, secret, elsewhere)
    assert user("task", "list", "--server", elsewhere, env=named).code == 0


async def test_a_stored_token_goes_to_the_origin_that_it_was_stored_for_and_to_no_other(folder: Path) -> None:
    secret = new_secret()[1]
    one, other = Listener(), Listener()
    async with site(one) as url, site(other) as elsewhere:
        Credentials(folder).keep(url, secret)
        for place in (url, url + "/", url + "/api/v1", url.replace("localhost", "LocalHost")):
            async with open_tasks(place) as tasks:
                await tasks.list()
        for place in (elsewhere, url.replace("localhost", "127.0.0.1")):
            async with open_tasks(place) as tasks:
                await tasks.list()
    assert one.shown == [f"Bearer {secret}"] * 4 + [None]
    assert other.shown == [None]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Tasks.Example:443/x/api/v1", "https://tasks.example"),
        ("http://h:80", "http://h"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_always_written_the_same_way(url: str, origin: str) -> None:
    assert origin_of(url) == origin


async def test_a_redirect_carries_no_token_and_is_told(folder: Path) -> None:
    elsewhere = Listener()
    async with site(elsewhere) as other:

        async def redirect(request: web.Request) -> web.Response:
            status = 307 if request.method == "POST" else 302
            return web.Response(status=status, headers={"Location": f"{other}{request.path_qs}"})

        async with site(redirect) as url, open_tasks(url, token=new_secret()[1]) as tasks:
            for asked in (tasks.ready, tasks.list, lambda: tasks.add(NewTask(title="x"))):
                with pytest.raises(Unavailable, match=rf"redirects to {other} \(30[27]\), which is not followed") as caught:
                    await asked()
                assert not isinstance(caught.value, OutcomeUnknown)
            assert isinstance(tasks, RemoteTasks)
            with pytest.raises(Unavailable, match="redirects"):
                await tasks.raw("GET", "/me", [], None)
    assert elsewhere.shown == []


@pytest.mark.parametrize("url", ["http://u@h", "http://u:p@h", "http://:p@h", "https://good\\@evil", "http://@h"])
async def test_an_address_with_somebody_in_it_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not the address of a server") as caught:
        async with open_tasks(url):
            pass
    assert ":p" not in caught.value.detail


# --------------------------------------------------------------------------------------------------------- in the clear, TLS


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://tasks.example", True),
        ("http://localhost:1", True),
        ("http://127.0.0.2", True),
        ("http://[::1]:1", True),
        ("http://tasks.example", False),
        ("http://localhost.example", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://[fe80::1]", False),
    ],
)
def test_no_token_goes_to_another_machine_in_the_clear(url: str, fine: bool) -> None:
    require_private(url, allow_http=True)
    if fine:
        require_private(url, allow_http=False)
        return
    with pytest.raises(ConfigError, match="use https://, or allow it with allow_http"):
        require_private(url, allow_http=False)


def test_the_command_line_refuses_before_it_asks_or_sends(user: Shell) -> None:
    secret = new_secret()[1]
    assert "in the clear" in user.fails(2, "auth", "login", "http://tasks.invalid", stdin=secret, env={"TASKCTL_SERVER": ""})
    far = {"TASKCTL_SERVER": "http://tasks.invalid", "TASKCTL_TOKEN": secret}
    assert "in the clear" in user.fails(2, "task", "list", env=far)
    assert "in the clear" in user.fails(2, "task", "list", "--no-allow-http", env={**far, "TASKCTL_ALLOW_HTTP": "1"})
    assert "cannot be reached" in user.fails(7, "task", "list", "--allow-http", "--server-timeout", "0.5", env=far)
    assert "cannot be reached" in user.fails(7, "api", "GET", "/me", env={**far, "TASKCTL_TOKEN": ""})


class Tls:
    """A CA, and what it vouches for."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.file))

    def serving(self, name: str = "localhost", not_after: datetime | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name, not_after=not_after).configure_cert(context)
        return context


async def failure(url: str, settings: Settings) -> TaskctlError:
    async with open_tasks(url, settings=settings, token=new_secret()[1]) as tasks:
        with pytest.raises(Unavailable) as caught:
            await tasks.list()
    return caught.value


async def test_a_server_is_trusted_through_the_ca_that_is_named_and_no_other(folder: Path, tmp_path: Path) -> None:
    tls, listener = Tls(tmp_path), Listener()
    async with site(listener, tls.serving()) as url:
        async with open_tasks(url, settings=Settings(ca_file=str(tls.file)), token=(secret := new_secret()[1])) as tasks:
            await tasks.list()
        assert listener.shown == [f"Bearer {secret}"]
        for settings in (Settings(), Settings(ca_file=str(Tls(folder.parent.parent).file))):
            assert "of a CA that is not known here; ca_file (--ca-file) names one" in (await failure(url, settings)).detail
    assert len(listener.shown) == 1


async def test_what_is_wrong_with_a_certificate_is_said(folder: Path, tmp_path: Path) -> None:
    tls, listener = Tls(tmp_path), Listener()
    settings = Settings(ca_file=str(tls.file))
    async with site(listener, tls.serving("elsewhere.example")) as url:
        assert (await failure(url, settings)).detail.endswith("cannot be trusted: its certificate is not for localhost")
        assert "not for 127.0.0.1" in (await failure(url.replace("localhost", "127.0.0.1"), settings)).detail
    async with site(listener, tls.serving(not_after=datetime.now(UTC) - timedelta(days=1))) as url:
        assert (await failure(url, settings)).detail.endswith("cannot be trusted: its certificate has expired")
    async with site(listener) as url:
        assert (
            "; if it speaks plain HTTP, its address begins with http://"
            in (await failure(url.replace("http:", "https:"), Settings(server_timeout=0.3))).detail
        )
    assert listener.shown == []


async def test_a_ca_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for file, said in ((tmp_path / "junk", "holds no certificate"), (tmp_path / "none", "cannot be read: No such file")):
        with pytest.raises(ConfigError, match=f"ca_file: .*{said}"):
            async with open_tasks("https://localhost:1", settings=Settings(ca_file=str(file))):
                pass


def test_verification_cannot_be_turned_off() -> None:
    assert not [name for name in Settings.__struct_fields__ if re.search("verif|insecure|check", name)]


# ---------------------------------------------------------------------------------------------------------- the library


async def test_the_library_takes_a_token_a_file_or_what_is_stored(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    given, filed, stored = (new_secret()[1] for _ in range(3))
    monkeypatch.setenv("TASKCTL_TOKEN", new_secret()[1])  # not for the library
    file = tmp_path / "token"
    file.write_text(filed)
    file.chmod(0o600)
    listener, settings = Listener(), Settings(token_file=str(file))

    async def use(tasks: TaskService) -> None:
        await tasks.list()

    async with site(listener) as url:
        async with open_tasks(url) as tasks:
            await use(tasks)
        Credentials(folder).keep(url, stored)
        async with open_tasks(url) as tasks:
            await use(tasks)
        async with open_tasks(url, settings=settings) as tasks:
            await use(tasks)
        async with open_tasks(url, settings=settings, token=given) as tasks:
            await use(tasks)
    assert listener.shown == [None, f"Bearer {stored}", f"Bearer {filed}", f"Bearer {given}"]
    with pytest.raises(ConfigError, match="token holds no token"):
        async with open_tasks(url, token="junk"):
            pass
    with pytest.raises(ConfigError, match="a database asks for no token"):
        async with open_tasks(f"sqlite:///{tmp_path}/x.db", token=given):
            pass


# ---------------------------------------------------------------------------------------------------------- not shown


def test_no_command_shows_the_token(shell: Shell, user: Shell, server: Server) -> None:
    secret = created(shell, "tasks:read")
    env = {"TASKCTL_TOKEN": secret}
    logged_in(user, secret)
    shown = ""
    for environment in ({}, env):
        for arguments in (
            ("-v", "task", "list"), ("api", "GET", "/me", "-i"), ("api", "GET", "/me", "-v"), ("auth", "status", "-o", "json"),
            ("auth", "status", "-v"), ("task", "add", "x"), ("task", "add", "x", "-o", "json"), ("token", "list"),
            ("task", "list", "--server", "http://127.0.0.1:9", "--server-timeout", "0.1"),
        ):  # fmt: skip
            ran = user(*arguments, env=environment)
            shown += ran.out + ran.err
    assert bare(secret) not in shown + "".join(server.log)
    assert id_in(secret) in shown


async def test_no_failure_has_the_token_in_it(folder: Path, tmp_path: Path) -> None:
    secret = new_secret()[1]

    async def junk(request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async with site(junk) as url:
        for place in (url, url.replace("http:", "https:")):
            async with open_tasks(place, token=secret, settings=Settings(server_timeout=0.3)) as tasks:
                with pytest.raises(Unavailable) as caught:
                    await tasks.list()
                said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(tasks)
                assert bare(secret) not in said
    assert bare(secret) not in repr(credentials.Credential(secret, "x"))
    assert bare(secret) not in repr(credentials.Entry("https://x", token=secret))


def test_a_missing_scope_is_named_with_what_helps(shell: Shell, user: Shell) -> None:
    logged_in(user, created(shell, "tasks:read"))
    line = user.fails(5, "task", "add", "x")
    assert "this needs the scope tasks:write, and the token has tasks:read" in line
    assert "`taskctl token create NAME --scope tasks:write`" in line
    [problem] = user("api", "POST", "/tasks", "-d", '{"title": "x"}', "-o", "json").problems
    assert (problem["status"], problem["scope"]) == (403, "tasks:write")
    assert "`taskctl token create NAME --scope admin`" in user.fails(5, "token", "list")


# ---------------------------------------------------------------------------------------------------------- how it is kept


def test_the_file_is_only_for_its_user(folder: Path) -> None:
    secret = new_secret()[1]
    before = os.umask(0)
    try:
        assert Credentials(folder).keep(ORIGIN, secret) == str(folder / "credentials.json")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "credentials.json": 0o600,
        "credentials.lock": 0o600,
    }
    found = Credentials(folder).find(ORIGIN)
    assert found is not None
    assert found.secret == secret
    assert Credentials(folder).drop(ORIGIN)
    assert secret not in (folder / "credentials.json").read_text()


def wide_file(folder: Path) -> None:
    (folder / "credentials.json").chmod(0o640)


def wide_folder(folder: Path) -> None:
    folder.chmod(0o770)


def linked_file(folder: Path) -> None:
    (folder / "credentials.json").rename(folder / "real.json")
    (folder / "credentials.json").symlink_to(folder / "real.json")


def linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "real")
    folder.symlink_to(folder.parent / "real")


def a_pipe(folder: Path) -> None:
    (folder / "credentials.json").unlink()
    os.mkfifo(folder / "credentials.json", 0o600)


def of_another(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(folder / "credentials.json", 12345, 12345)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wide_file, "has the mode 0640: others may read it; chmod 600 "),
        (wide_folder, "has the mode 0770: others may write into it; chmod 700 "),
        (linked_file, "is a symbolic link; put the file itself in its place"),
        (linked_folder, "is a symbolic link; put a folder in its place"),
        (a_pipe, "is not a file; remove it"),
        (of_another, "belongs to another user; remove it"),
    ],
)
def test_what_is_not_safe_is_refused_with_what_to_do_and_left_alone(folder: Path, spoil: Any, said: str) -> None:
    store = Credentials(folder)
    store.keep(ORIGIN, new_secret()[1])
    spoil(folder)
    before = os.lstat(folder / "credentials.json").st_ino
    for use in (lambda: store.find(ORIGIN), lambda: store.keep(ORIGIN, new_secret()[1]), lambda: store.drop(ORIGIN)):
        with pytest.raises(ConfigError, match=re.escape(said)):
            use()
    assert os.lstat(folder / "credentials.json").st_ino == before


def test_a_folder_that_others_may_look_into_is_fine(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    Credentials(folder).keep(ORIGIN, new_secret()[1])
    assert Credentials(folder).find(ORIGIN) is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"servers": 3}', '{"servers": {}, "more": 1}',
        '{"servers": {"https://a": {"url": "https://b", "keyring": true}}}',
        '{"servers": {"https://a": {"url": "https://a", "token": "junk"}}}', '{"servers": {"https://a": {"url": "https://a"}}}',
        '{"servers": {"a": {"url": "a", "keyring": true}}}', "\xff",
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_not_overwritten(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    file = folder / "credentials.json"
    file.write_bytes(text.encode("latin-1"))
    file.chmod(0o600)
    store = Credentials(folder)
    for use in (store.entries, lambda: store.keep(ORIGIN, new_secret()[1]), lambda: store.drop(ORIGIN)):
        with pytest.raises(ConfigError, match="is damaged, and is left as it is; mend it, or remove it and log in again"):
            use()
    assert file.read_bytes() == text.encode("latin-1")


def test_what_a_login_that_was_killed_left_behind_is_in_nobodys_way(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / "credentials.json.new").write_text("half")
    Credentials(folder).keep(ORIGIN, new_secret()[1])
    assert not (folder / "credentials.json.new").exists()


def test_logins_at_once_lose_nothing(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from taskctl.credentials import Credentials; from taskctl.access import new_secret\n"
        "sys.stdin.read()\n"
        "for n in range(5): Credentials(Path(sys.argv[1])).keep(f'https://{sys.argv[2]}-{n}.example', new_secret()[1])"
    )
    argv = [str(Shell.argv()[0]), "-c", script, str(folder)]
    running = [subprocess.Popen([*argv, f"p{n}"], stdin=subprocess.PIPE) for n in range(4)]
    for process in running:  # all at once
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(SECONDS) for process in running] == [0] * 4
    assert len(Credentials(folder).entries()) == 20


def test_a_disk_that_takes_nothing_is_told(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / "credentials.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(Unavailable, match="cannot be written"):
        Credentials(folder).keep(ORIGIN, new_secret()[1])
    assert not (folder / "elsewhere").exists()


# ---------------------------------------------------------------------------------------------------------- keyrings

BACKENDS = """
import json, os, pathlib
from keyring.backend import KeyringBackend

class Real(KeyringBackend):
    name = "Real Keyring"
    priority = 5
    path = pathlib.Path(os.environ["HOME"]) / "keyring.json"

    def _all(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service, username):
        return self._all().get(service + " " + username)

    def set_password(self, service, username, password):
        self.path.write_text(json.dumps({**self._all(), service + " " + username: password}))

    def delete_password(self, service, username):
        left = self._all()
        del left[service + " " + username]
        self.path.write_text(json.dumps(left))

class Plain(Real):
    name = "Plain Keyring"
    priority = 0.5

class Locked(Real):
    name = "Locked Keyring"

    def set_password(self, service, username, password):
        raise RuntimeError("locked\\nfor good")

    def get_password(self, service, username):
        raise RuntimeError("locked\\nfor good")
"""


@pytest.fixture
def ringed(user: Shell) -> Shell:
    """Return the user's shell with a keyring that is a backend as `keyring` knows them, in a file."""
    (user.home / "backends.py").write_text(BACKENDS)
    user.environment |= {"PYTHONPATH": str(user.home), "PYTHON_KEYRING_BACKEND": "backends.Real"}
    return user


def test_a_real_keyring_keeps_the_token_and_the_file_only_says_so(shell: Shell, ringed: Shell, server: Server) -> None:
    secret = created(shell, "tasks:read")
    assert "is in the keyring (Real Keyring)" in logged_in(ringed, secret).out
    assert json.loads((ringed.home / "keyring.json").read_text()) == {f"taskctl {server.url}": secret}
    assert bare(secret) not in kept(ringed).read_text()
    assert ringed("task", "list").code == 0
    [row] = ringed("auth", "status", "-o", "json").json
    assert (row["source"], row["state"]) == ("the keyring (Real Keyring)", "good")
    assert "`taskctl auth login" in ringed.fails(2, "task", "list", env={"PYTHON_KEYRING_BACKEND": NO_KEYRING})
    assert "fails: locked for good" in ringed.fails(7, "task", "list", env={"PYTHON_KEYRING_BACKEND": "backends.Locked"})
    assert ringed("auth", "logout").code == 0
    assert json.loads((ringed.home / "keyring.json").read_text()) == {}
    assert ringed("task", "list").code == 5


@pytest.mark.parametrize("backend", ["backends.Plain", NO_KEYRING, "keyring.backends.fail.Keyring"])
def test_a_keyring_that_keeps_no_secrets_is_passed_over(shell: Shell, ringed: Shell, backend: str) -> None:
    secret = created(shell, "tasks:read")
    ringed.environment["PYTHON_KEYRING_BACKEND"] = backend
    logged_in(ringed, secret)
    assert secret in kept(ringed).read_text()
    assert not (ringed.home / "keyring.json").exists()


def test_of_several_keyrings_the_best_is_used_and_not_one_in_plain_text(shell: Shell, ringed: Shell) -> None:
    secret = created(shell, "tasks:read")
    ringed.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.chainer.ChainerBackend"
    logged_in(ringed, secret)  # its chain has nothing in it here
    assert secret in kept(ringed).read_text()


def test_a_keyring_that_fails_stores_nothing_anywhere(shell: Shell, ringed: Shell) -> None:
    secret = created(shell, "tasks:read")
    for backend, code, said in (("backends.Locked", 7, "fails: locked"), ("nowhere.Keyring", 2, "the keyring cannot be used")):
        line = ringed.fails(code, "auth", "login", stdin=secret, env={"PYTHON_KEYRING_BACKEND": backend})
        assert said in line
    assert not kept(ringed).exists()


def test_without_the_package_the_file_is_used(shell: Shell, ringed: Shell) -> None:
    (ringed.home / "keyring.py").write_text("raise ImportError")
    secret = created(shell, "tasks:read")
    logged_in(ringed, secret)
    assert secret in kept(ringed).read_text()
    assert ringed("task", "list").code == 0


async def test_opening_does_not_block_the_loop(folder: Path, tmp_path: Path) -> None:
    """What is named or stored is read in a thread: a keyring may ask the user first. Here a pipe has to be written to."""
    secret, pipe, listener = new_secret()[1], tmp_path / "pipe", Listener()
    os.mkfifo(pipe, 0o600)

    async def use(url: str) -> None:
        async with open_tasks(url, settings=Settings(token_file=str(pipe))) as tasks:
            await tasks.list()

    async with site(listener) as url, asyncio.timeout(SECONDS):
        using = asyncio.create_task(use(url))
        await asyncio.sleep(0)  # so that it is the first to open the pipe
        await asyncio.to_thread(pipe.write_text, secret)
        await using
    assert listener.shown == [f"Bearer {secret}"]
