"""The process `taskctl serve`: beside the command line on one file, and how it stops: asked, interrupted and killed."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from taskctl.server.serve import is_loopback
from tests.redis import Server as RedisServer
from tests.support import SECONDS, Json, Server, Shell, serving


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


@contextmanager
def connected(server: Server) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) as connection:
        yield connection


def call(server: Server, method: str, path: str, body: Json = None) -> tuple[int, dict[str, str], Any]:
    """Return the answer to one request on a connection of its own: status, headers and value."""
    with connected(server) as connection:
        sent = None if body is None else json.dumps(body).encode()
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(raw) if "json" in answer.headers["Content-Type"] else raw


def whole_log(shell: Shell) -> list[int]:
    """Return the numbers of the whole log, as the file has them."""
    with closing(sqlite3.connect(shell.home / "tasks.db")) as raw:
        return [seq for (seq,) in raw.execute("SELECT seq FROM log ORDER BY seq")]


def refuses(port: int) -> bool:
    """Return whether nobody listens there any more; somebody who stops has until the deadline for it."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it has stopped listening with this one in its queue; the next one tells
            continue
        time.sleep(0.01)  # more connections than it can accept would only keep it from stopping
    return False


# ------------------------------------------------------------------------------------------------- two writers, one file


def test_the_server_and_the_command_line_see_each_others_writes_at_once(shell: Shell) -> None:
    assert shell("task", "add", "before it started").code == 0
    with serving(shell) as server:
        status, headers, task = call(server, "POST", "/api/v1/tasks", {"title": "over HTTP"})
        assert (status, headers["Location"], task["id"]) == (201, "/api/v1/tasks/2", 2)
        assert [task["title"] for task in shell("task", "list", "-o", "json").json] == ["before it started", "over HTTP"]
        assert shell("task", "add", "from the shell", "-o", "ids").out == "3\n"
        assert shell("task", "done", "2").code == 0
        page = call(server, "GET", "/api/v1/tasks?sort=id")[2]
        assert [(task["title"], task["status"]) for task in page["items"]] == [
            ("before it started", "todo"),
            ("over HTTP", "done"),
            ("from the shell", "todo"),
        ]
        entries = call(server, "GET", "/api/v1/changes")[2]["items"]
        assert [entry["source"] for entry in entries] == ["cli", "api", "cli", "cli"]


def test_two_processes_that_write_at_the_same_time_lose_nothing(shell: Shell) -> None:
    with serving(shell) as server, ThreadPoolExecutor(8) as threads:

        def over_http(number: int) -> int:
            with connected(server) as connection:
                for n in range(25):
                    body = json.dumps({"title": f"http {number} {n}"})
                    connection.request("POST", "/api/v1/tasks", body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 201
            return 25

        def in_the_shell(count: int) -> int:
            ran = shell("task", "add", "cli") if count == 1 else shell("db", "seed", "--count", str(count), "--seed", "1")
            assert ran.code == 0, ran
            return count

        writers = [threads.submit(over_http, n) for n in range(4)]
        writers += [threads.submit(in_the_shell, n) for n in (600, 1, 1, 1, 1, 1, 1)]
        count = sum(writer.result(SECONDS) for writer in writers)
        assert call(server, "GET", f"/api/v1/changes?since={count - 1}")[2]["next"] == count
        assert whole_log(shell) == list(range(1, count + 1))
        assert len(shell("task", "list", "--all", "-o", "ids").out.splitlines()) == count
    assert shell("db", "check").code == 0


# ----------------------------------------------------------------------------------------------------------- being asked


@contextmanager
def half_sent(server: Server, body: bytes) -> Iterator[socket.socket]:
    """Yield a connection with a request that the server works on, and whose body it has half of."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
        raw.sendall(
            b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 100 ")
        raw.sendall(body[: len(body) // 2])
        yield raw


@pytest.mark.parametrize("seconds", [0.0, 1.5], ids=["quick", "slow"])
def test_sigterm_lets_a_request_in_flight_finish_and_then_ends_it(shell: Shell, seconds: float) -> None:
    """However slowly its client sends the rest: that is the time that is slept here."""
    body = json.dumps({"title": "in flight"}).encode()
    with serving(shell) as server:
        with half_sent(server, body) as raw, closing(HTTPResponse(raw)) as answer:
            server.process.send_signal(signal.SIGTERM)
            assert refuses(server.port)
            time.sleep(seconds)
            raw.sendall(body[len(body) // 2 :])
            raw.settimeout(5)  # a server that has dropped the body would let us wait for long
            answer.begin()
            assert (answer.status, json.loads(answer.read())["title"]) == (201, "in flight")
        assert server.process.wait(SECONDS) == 0
        assert "Traceback" not in "".join(server.log)
    assert not (shell.home / "tasks.db-wal").exists()
    assert shell("task", "show", "1", "-o", "json").json["title"] == "in flight"


def test_sigterm_lets_a_large_batch_finish(shell: Shell) -> None:
    operations = [{"op": "add", "task": {"title": f"T {n}", "description": "x" * 1500}} for n in range(500)]
    with serving(shell) as server, connected(server) as connection:
        connection.request("POST", "/api/v1/batch", json.dumps({"operations": operations}), {"Content-Type": "application/json"})
        server.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["results"])) == (200, 500)
        assert server.process.wait(SECONDS) == 0
    assert whole_log(shell) == list(range(1, 501))


def test_while_it_drains_it_is_not_ready_and_keeps_no_connection_but_still_answers(shell: Shell) -> None:
    with serving(shell, "--drain-seconds", "1") as server, connected(server) as kept:
        kept.request("GET", "/readyz")
        assert kept.getresponse().read() == b"ok\n"
        server.process.send_signal(signal.SIGTERM)
        status = 200
        while status == 200:
            status, headers, problem = call(server, "GET", "/readyz")
        assert (status, problem["code"], headers["Connection"]) == (503, "unavailable", "close")
        assert int(headers["Retry-After"]) >= 1
        kept.request("POST", "/api/v1/tasks", b'{"title": "late"}', {"Content-Type": "application/json"})
        answer = kept.getresponse()
        assert (answer.status, answer.headers["Connection"], len(answer.read()) > 0) == (201, "close", True)
        assert call(server, "GET", "/livez")[0] == 200
        assert server.process.wait(SECONDS) == 0
        assert refuses(server.port)


# ------------------------------------------------------------------------------------------------------- being interrupted


def test_ctrl_c_is_quick_though_a_connection_is_kept_open(shell: Shell) -> None:
    with serving(shell, "--drain-seconds", "60") as server, connected(server) as kept:
        kept.request("GET", "/api/v1/tasks")
        assert kept.getresponse().read().startswith(b"{")
        asked = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - asked < 2
    assert "Traceback" not in "".join(server.log)
    assert not (shell.home / "tasks.db-wal").exists()


def test_ctrl_c_is_quick_though_a_request_hangs(shell: Shell) -> None:
    with serving(shell) as server, half_sent(server, b'{"title": "never to be finished"}'):
        asked = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - asked < 2
    assert "Traceback" not in "".join(server.log)


def test_a_port_that_is_taken_is_one_line_and_exit_7(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in shell.fails(7, "serve", "--port", port)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--port", "http"], "--port"), (["--port", "65536"], "65535"), (["--drain-seconds", "-1"], "drain_seconds")],
)
def test_options_that_cannot_be_used_are_named(shell: Shell, options: list[str], said: str) -> None:
    assert said in shell.fails(2, "serve", *options)


def test_it_says_what_becomes_of_its_redis(shell: Shell) -> None:
    with RedisServer(started=False) as redis, serving(shell, "--redis-url", redis.url) as server:
        refused = f"{redis.url}: Connection refused"
        server.logged(f"warning +Redis cannot be used, and is tried again +why=['\"]?{refused}")
        cleared = Shell(shell.home, TASKCTL_SERVER=server.url).fails(7, "cache", "clear")
        assert cleared == f"this server has forgotten everything, but the Redis that it shares cannot be emptied: {refused}"
        redis.start()
        server.logged(r"info +Redis is used again +seconds=[0-9.]+\n")


def test_it_logs_a_line_for_each_request_and_none_when_it_is_to_be_quiet(shell: Shell) -> None:
    with serving(shell) as server:
        with connected(server) as connection:
            connection.request("GET", "/api/v1/tasks?limit=3", headers={"X-Request-Id": "look-for-me"})
            connection.getresponse().read()
        assert "GET /api/v1/tasks" in server.logged("look-for-me").string
        assert server.stop() == 0


# ------------------------------------------------------------------------------------------------------ whom it lets in


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_without_tokens_it_serves_nobody_on_other_machines(shell: Shell, host: str) -> None:
    """The last of these is nobody's address, so that listening there would fail with 7."""
    said = shell.fails(2, "serve", "--host", host, "--port", "0")
    assert all(way in said for way in (host, "--auth tokens", "--host 127.0.0.1", "--allow-anonymous"))
    assert not (shell.home / "tasks.db").exists()
    assert shell("serve", "--host", host, "--migrate", "auto").code == 2
    assert not (shell.home / "tasks.db").exists()


def test_with_tokens_it_warns_of_what_nobody_may_have_thought_of(shell: Shell) -> None:
    in_the_clear, nobody = "tokens come in the clear", "there is no token yet that would let anybody in"
    with serving(shell, "--auth", "tokens", "--host", "0.0.0.0") as server:
        assert server.logged(f"^warning: {in_the_clear}")
        assert "`taskctl token create NAME --scope admin`" in server.logged(f"^warning: {nobody}").string
    token = shell("token", "create", "ci", "--scope", "admin").out.strip()
    with serving(shell, "--auth", "tokens", "--rate-limit-token", "1/hour") as server:
        user = Shell(shell.home, TASKCTL_SERVER=server.url, TASKCTL_TOKEN=token)
        assert [user("api", "GET", "/me").code for _ in range(2)] == [0, 7]
        assert f"token={token.split('_')[2]}" in server.logged("GET /api/v1/me 429").string
    assert in_the_clear not in "".join(server.log)
    assert nobody not in "".join(server.log)
    with serving(shell, "--auth", "tokens", "--host", "0.0.0.0", "--trusted-proxies", "10.0.0.7") as server:
        pass
    assert in_the_clear not in "".join(server.log)


@pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["plain", "quiet"])
def test_it_serves_everybody_if_that_is_said_and_warns_of_it(shell: Shell, quiet: list[str]) -> None:
    with Server(shell, "--host", "0.0.0.0", "--allow-anonymous", *quiet) as server:
        assert "no token is needed" in server.logged("^warning: whoever can reach 0.0.0.0 can read and change all tasks").string


@pytest.mark.parametrize("options", [["--host", "0.0.0.0", "--auth", "tokens"], ["--host", "localhost", "--allow-anonymous"]])
def test_it_warns_of_nothing_where_strangers_cannot_get_in(shell: Shell, options: list[str]) -> None:
    with serving(shell, *options) as server:
        assert server.stop() == 0
    assert "can read and change all tasks" not in "".join(server.log)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "2130706434")),
        *((host, False) for host in ("0.0.0.0", "::", "", "192.0.2.1", "::ffff:192.0.2.1")),
    ],
)
def test_which_hosts_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_name_must_have_nothing_but_addresses_of_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    resolve("127.0.0.1", "::1")
    assert is_loopback("a.name")
    resolve("127.0.0.1", "192.0.2.1")
    assert not is_loopback("a.name")


# ------------------------------------------------------------------------------------------------------------ being killed


async def _add_until_killed(server: Server, after: int) -> set[str]:
    """Add tasks with 16 clients, kill the server once `after` are acknowledged, and return the uids of all that were."""
    acknowledged: set[str] = set()

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.post(f"{server.url}/api/v1/tasks", json={"title": "x", "labels": ["y"]}) as answer:
                    task = await answer.json()
            except aiohttp.ClientError:
                return
            acknowledged.add(task["uid"])
            if len(acknowledged) == after:
                server.process.kill()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        await asyncio.gather(*[client(session) for _ in range(16)])
    return acknowledged


async def _kill_during_adds(shell: Shell, rounds: int, adds: int) -> None:
    acknowledged: set[str] = set()
    for _ in range(rounds):
        with serving(shell) as server:
            acknowledged |= await _add_until_killed(server, adds)
            assert server.process.wait(SECONDS) == -signal.SIGKILL
    with serving(shell):
        tasks = shell("task", "list", "--all", "-o", "json").json
    assert acknowledged <= {task["uid"] for task in tasks}
    assert len(acknowledged) >= rounds * adds
    assert whole_log(shell) == list(range(1, len(tasks) + 1))
    assert sorted(task["id"] for task in tasks) == list(range(1, len(tasks) + 1))
    checked = shell("db", "check", "-o", "json")
    assert (checked.code, set(checked.json.values())) == (0, {"ok"})


async def test_all_that_was_acknowledged_survives_a_kill(shell: Shell) -> None:
    await _kill_during_adds(shell, 2, 100)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_all_that_was_acknowledged_survives_many_kills(shell: Shell) -> None:
    await _kill_during_adds(shell, 20, 1000)


def test_a_command_that_is_killed_while_it_writes_leaves_whole_batches(shell: Shell) -> None:
    with serving(shell) as server:  # it has the file open all the time, as a bystander
        seed = subprocess.Popen(shell.argv("db", "seed", "--count=100000", "--seed=1"), cwd=shell.home, env=shell.environment)
        try:
            while seed.poll() is None and not call(server, "GET", "/api/v1/changes?limit=1")[2]["more"]:
                pass
        finally:
            seed.kill()
        assert seed.wait(SECONDS) == -signal.SIGKILL
        assert call(server, "POST", "/api/v1/tasks", {"title": "after it"})[0] == 201
    log = whole_log(shell)
    assert log == list(range(1, len(log) + 1))
    assert len(log) % 500 == 1
    assert shell("db", "check").code == 0


def test_a_log_that_nobody_reads_any_more_fails_no_request(shell: Shell) -> None:
    command = shell.argv("serve", "--port", "0")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=shell.environment, cwd=shell.home) as process:
        assert process.stderr is not None
        found = re.search(rb"at (http://\S+)/api/v1", process.stderr.readline())
        assert found
        process.stderr.close()
        url = found[1].decode()
        for number in (1, 2):
            assert shell("--server", url, "task", "add", "x", "-o", "ids").out == f"{number}\n"
        process.terminate()
        assert process.wait(20) == 0
