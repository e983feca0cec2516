"""The log of a server: what is in a line, that it is one line whatever is in it, and what is told how often."""

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskctl.access import ENCODED_MAX, PATH_MAX, new_secret
from taskctl.errors import Unavailable
from taskctl.logs import Format, Level, Logs
from taskctl.observe import (
    TRACE,
    Audited,
    DatabaseAway,
    DatabaseBack,
    Event,
    FeedPolled,
    RedisAway,
    RedisBack,
    RedisRefuses,
    RequestDone,
    StatementDone,
)
from tests.strategies import CONTROLS, LINE_BREAKERS, NASTY_LINES
from tests.support import Server, Shell, serving

DONE = RequestDone("GET", "/api/v1/tasks/7", "/api/v1/tasks/{id}", 200, 0.00125, "abc", "default", "5Kd0c2Qm1xYz")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def written(format: Format, level: Level, act: Callable[[Logs], object]) -> str:
    """Return what a log has written when something has been done with it."""
    reader, writer = os.pipe()
    with os.fdopen(reader, encoding="utf-8", newline="") as read:
        try:
            act(Logs(format, level, writer))
        finally:
            os.close(writer)
        return read.read()


def told(*events: Event, level: Level = "info") -> list[dict[str, Any]]:
    """Return the JSON lines of events, once the server has started."""

    def act(logs: Logs) -> None:
        logs.started("sqlite:///x", "http://x")
        for event in events:
            logs.observe(event)

    lines = [json.loads(line) for line in written("json", level, act).splitlines()]
    return lines[1:] if level in ("debug", "info") else lines


def bare(*events: Event, level: Level = "info") -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "time"} for line in told(*events, level=level)]


@pytest.fixture
def python_logging() -> Iterator[None]:
    """Whatever takes over Python's logging, it is given back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.getLogger("taskctl").setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level


# ------------------------------------------------------------------------------------------------------------- the lines


def test_a_request_for_programs() -> None:
    [line] = told(DONE)
    assert re.fullmatch(TIME, line.pop("time"))
    assert list(line) == ["level", "event", "id", "method", "route", "status", "milliseconds", "workspace", "token"]
    assert list(line.values()) == ["info", "request", "abc", "GET", "/api/v1/tasks/{id}", 200, 1.25, "default", "5Kd0c2Qm1xYz"]


def test_a_request_for_people() -> None:
    line = written("console", "info", lambda logs: logs.observe(DONE))
    said = "request GET /api/v1/tasks/{id} 200 1.25 ms id=abc workspace=default token=5Kd0c2Qm1xYz"
    assert re.fullmatch(rf"{TIME} info    {re.escape(said)}\n", line)


def test_where_nobody_has_to_say_who_they_are_nobody_is_named() -> None:
    [line] = told(DONE._replace(workspace="", token=""))
    assert line.keys().isdisjoint(["workspace", "token", "path"])


def test_a_name_that_the_server_does_not_go_by_is_told_but_not_at_any_length() -> None:
    [line, long] = told(DONE._replace(status=421, host="tasks.example"), DONE._replace(status=421, host="x" * 8000))
    assert (line["host"], len(long["host"])) == ("tasks.example", 200)


def test_that_all_is_well_with_probes_is_no_news() -> None:
    probes = [DONE._replace(route=route, status=status) for route in ("/livez", "/readyz", "/metrics") for status in (200, 503)]
    assert [(line["level"], line["status"]) for line in told(*probes)] == [("warning", 503)] * 3
    assert [(line["level"], line["status"]) for line in told(*probes, level="debug")] == [("debug", 200), ("warning", 503)] * 3


def test_an_address_that_is_none_is_told_as_it_came_but_not_at_any_length() -> None:
    [short, long] = told(DONE._replace(route="", path="/a%20b%1b"), DONE._replace(route="", path="/" + "x" * 5000))
    assert short["path"] == "/a%20b%1b"
    assert len(long["path"]) == PATH_MAX


@pytest.mark.parametrize("again", [0, 1, 2, 3], ids=lambda n: f"encoded {n} times")
def test_a_secret_in_an_address_is_taken_out_however_it_is_encoded(again: int) -> None:
    id, token = new_secret()
    path = token.replace("_", "%" + "25" * (again - 1) + "5F") if again else token
    everything = "".join(f"%{ord(c):02x}" for c in token)
    for line in told(DONE._replace(route="", path=f"/{path}"), DONE._replace(route="", path=f"/{everything}")):
        assert id in line["path"]
        assert token.split("_")[3] not in line["path"]


@pytest.mark.parametrize("again", range(ENCODED_MAX + 3))
def test_a_secret_is_taken_out_however_often_one_of_its_characters_is_encoded_or_nothing_is_told(again: int) -> None:
    id, token = new_secret()
    hidden = f"%{'25' * again}"
    for path, left in ((f"/{hidden}74{token[1:]}", id), (f"/password{hidden}3D{token[-20:]}", "password=[secret]")):
        [line] = told(DONE._replace(route="", path=path))
        assert token[-20:] not in line["path"]
        assert (left in line["path"]) == (again < ENCODED_MAX)


@pytest.mark.parametrize("length", [2 * PATH_MAX - 30, 2 * PATH_MAX, 2 * PATH_MAX + 30])
def test_a_password_in_an_address_that_is_cut_off_is_taken_out_although_its_end_is_not_looked_at(length: int) -> None:
    [line] = told(DONE._replace(route="", path=f"/x://u:{'secret' * length}"[:length] + "@host"))
    assert line["path"].startswith("/x://u:[secret]@")


@pytest.mark.parametrize("opening", ["://", "://a:", "@://a:", "password=", "%25", "%"])
def test_a_long_address_is_not_looked_at_to_its_end(opening: str) -> None:
    done = DONE._replace(route="", path="/" + opening * (PATH_MAX << 12))
    lines = told(*[done] * 20)
    assert all(len(line["path"]) <= PATH_MAX for line in lines)


@pytest.mark.parametrize(("status", "level"), [(200, "info"), (404, "info"), (500, "error"), (503, "warning"), (507, "warning")])
def test_the_level_of_a_request_is_that_of_its_answer(status: int, level: str) -> None:
    assert [line["level"] for line in told(DONE._replace(status=status))] == [level]


def test_the_least_that_is_told() -> None:
    events: list[Event] = [StatementDone("SELECT 1", 1, 0.001), DONE, DONE._replace(status=503), DONE._replace(status=500)]
    counts = {level: len(told(*events, level=level)) for level in ("debug", "info", "warning", "error")}
    assert counts == {"debug": 4, "info": 3, "warning": 2, "error": 1}


def test_what_becomes_of_tokens() -> None:
    events: list[Event] = [
        Audited("created", "a" * 12, workspace="w", by="b" * 12, address="::1"),
        Audited("revoked", "a" * 12),
        Audited("refused", "", address="::1", why="it has expired"),
        Audited("workspace created", "", workspace="garden", by="b" * 12),
    ]
    assert bare(*events) == [
        {
            "level": "info",
            "event": "token created",
            "token": "a" * 12,
            "workspace": "w",
            "by": "b" * 12,
            "address": "::1",
        },
        {"level": "info", "event": "token revoked", "token": "a" * 12},
        {"level": "warning", "event": "token refused", "address": "::1", "why": "it has expired"},
        {"level": "info", "event": "workspace created", "workspace": "garden", "by": "b" * 12},
    ]


def test_what_is_away_and_back() -> None:
    events: list[Event] = [DatabaseAway("w"), DatabaseBack(1.26), RedisAway("w"), RedisRefuses("full"), RedisBack(2.0)]
    assert [(line["level"], line["event"]) for line in told(*events)] == [
        ("error", "the database is away"),
        ("info", "the database is back"),
        ("warning", "Redis cannot be used, and is tried again"),
        ("warning", "Redis takes nothing new, and is tried again"),
        ("info", "Redis is used again"),
    ]


def test_before_it_has_started_the_failure_to_start_is_what_tells_of_the_database() -> None:
    assert written("json", "info", lambda logs: logs.observe(DatabaseAway("w"))) == ""


def test_an_outage_of_the_feed_is_told_once() -> None:
    fails, works = FeedPolled(2, 0, 0, 0.1, failed=True), FeedPolled(2, 5, 0, 0.1, failed=False)
    lines = told(works, *[fails] * 50, *[works] * 50, fails, fails)
    assert [line["event"] for line in lines] == ["the feed is away", "the feed is back", "the feed is away"]


# ---------------------------------------------------------------------------------------- one line, whatever is in it

_texts = st.text(max_size=40) | st.sampled_from([*NASTY_LINES.values(), *CONTROLS, *LINE_BREAKERS, "\ud800", '"', "\\", "a=b"])


@given(_texts, _texts, _texts, _texts)
def test_nothing_that_is_told_can_pass_for_another_line_or_be_obeyed(path: str, id: str, workspace: str, why: str) -> None:
    events: list[Event] = [RequestDone("GET", path, "", 404, 0.0, id, workspace), Audited("refused", id, why=why), RedisAway(why)]

    def act(logs: Logs) -> None:
        for event in events:
            logs.observe(event)
        logs.say(why, why, where=path)

    for format in ("console", "json"):
        out = written(format, "info", act)
        assert out.endswith("\n")
        lines = out[:-1].split("\n")
        assert len(lines) == len(events) + 1
        assert all(line.isprintable() for line in lines)
        if format == "json":
            assert all(isinstance(json.loads(line), dict) for line in lines)
        else:
            assert all(re.match(rf"{TIME} (info|warning) ", line) for line in lines[:-1])


@given(_texts.filter(lambda text: text.isprintable() and "tc_" not in text and "://" not in text and "password" not in text))
def test_what_can_be_seen_is_told_as_it_is(text: str) -> None:
    assert bare(RedisAway(text)) == [{"level": "warning", "event": "Redis cannot be used, and is tried again", "why": text}]


# ------------------------------------------------------------------------------------------------------ Python's logging


def fail_inside() -> None:
    token = new_secret()[1]
    raise ValueError(f"first\n2026-01-01T00:00:00.000Z error   forged\x1b[31m postgresql://me:hunter2@db/x {token}")


def log_a_failure(logs: Logs) -> None:
    logs.take_over()
    try:
        fail_inside()
    except ValueError:
        logging.getLogger("taskctl.server").exception("request %s failed", "abc")


def test_a_traceback_is_one_object(python_logging: None) -> None:
    [line] = written("json", "info", log_a_failure).splitlines()
    found = json.loads(line)
    assert (found["level"], found["event"], found["logger"]) == ("error", "request abc failed", "taskctl.server")
    assert "in fail_inside" in found["exception"]
    assert "hunter2" not in line
    assert re.search(r"tc_api_\w{12}_\[secret\]", line)


@pytest.mark.parametrize("format", get_args(Format))
def test_every_line_of_a_request_names_its_trace(python_logging: None, format: Format) -> None:
    def act(logs: Logs) -> None:
        log_a_failure(logs)
        logs.observe(DatabaseAway("gone"))
        logs.observe(DONE._replace(trace="b" * 32))

    before = TRACE.set("a" * 32)
    try:
        first, *_, last = written(format, "info", act).splitlines()
    finally:
        TRACE.reset(before)
    for line, trace in ((first, "a" * 32), (last, "b" * 32)):
        assert (json.loads(line)["trace_id"] == trace) if format == "json" else (f" trace_id={trace}" in line)
        assert line.count("trace_id") == 1


def test_a_traceback_is_indented_so_that_nothing_in_it_passes_for_a_line(python_logging: None) -> None:
    first, *rest = written("console", "info", log_a_failure).splitlines()
    assert re.fullmatch(rf"{TIME} error   request abc failed logger=taskctl\.server", first)
    assert len(rest) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert "hunter2" not in "".join(rest)


def test_warnings_are_lines_too_and_what_libraries_tell_of_themselves_is_not(python_logging: None) -> None:
    def act(logs: Logs) -> None:
        logs.take_over()
        logging.getLogger("asyncio").info("the selector is so and so")
        logging.getLogger("asyncio").warning("told")
        logging.getLogger("taskctl.cache").debug("told, too")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=False)
            logging.captureWarnings(capture=True)  # what catch_warnings has put in its place
            warnings.warn("old\nfashioned", stacklevel=1)

    lines = [json.loads(line) for line in written("json", "debug", act).splitlines()]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "asyncio"),
        ("debug", "taskctl.cache"),
        ("warning", "py.warnings"),
    ]


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        logs = Logs("json", "info", fd)
        logs.started("x", "y")
        logs.observe(DONE)
    finally:
        os.close(fd)


def test_when_there_is_room_again_the_next_line_is_there() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    logs = Logs("json", "info", writer)
    with os.fdopen(reader, "rb") as read:
        for _ in range(2000):  # far more than a pipe holds
            logs.observe(DONE)
        assert read.readline().endswith(b"}\n")
        read.read(1 << 15)
        logs.observe(DONE._replace(request_id="afterwards"))
        os.close(writer)
        assert json.loads(read.read().splitlines()[-1])["id"] == "afterwards"


# ---------------------------------------------------------------------------------------------------------- the process


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


def get(server: Server, path: str, id: str) -> None:
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", path, headers={"X-Request-Id": id})
    connection.getresponse().read()
    connection.close()


def test_a_server_that_logs_json_writes_nothing_else(shell: Shell) -> None:
    with serving(shell, "--log-format", "json", "--migrate", "auto") as server:
        get(server, "/api/v1/tasks?q=secret-words", "look-for-me")
        get(server, "/nowhere/%0a?x=1", "and-me")
        server.logged("and-me")
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert [line["event"] for line in lines] == ["upgraded", "started", "request", "request"]
    assert lines[1]["database"] == f"sqlite:///{shell.home}/tasks.db"
    assert [line.get("route") for line in lines[2:]] == ["/api/v1/tasks", None]
    assert lines[3]["path"] == "/nowhere/%0a"
    assert "secret-words" not in "".join(server.log)


def test_a_server_that_cannot_start_says_so_as_an_object_too(shell: Shell) -> None:
    ran = shell("serve", "--log-format", "json", "--database-url", f"sqlite:///{shell.home}/no/such/folder/x.db")
    [line] = [json.loads(line) for line in ran.err.splitlines()]
    assert (ran.code, ran.out) == (Unavailable.exit_code, "")
    assert (line["level"], line["event"], line["code"]) == ("error", "failed", "unavailable")


def test_quiet_is_warnings_and_verbose_is_everything(shell: Shell) -> None:
    with Server(shell, "--verbose", "--log-format", "json") as server:
        get(server, "/api/v1/tasks", "x")
        assert server.logged('"event":"statement"')
        assert server.stop() == 0
    ran = shell(
        "serve",
        "-q",
        "--log-level",
        "debug",
        "--host",
        "0.0.0.0",
        "--allow-anonymous",
        "--port",
        "1",
        "--database-url",
        "sqlite:////no/x.db",
    )
    assert [line.split(":")[0] for line in ran.err.splitlines()] == ["warning", "taskctl"]


@pytest.mark.parametrize(("name", "said"), [("log-format", "xml"), ("log-level", "loud")])
def test_what_it_cannot_be_is_named(shell: Shell, name: str, said: str) -> None:
    assert f"--{name} must be one of" in shell.fails(2, "serve", f"--{name}", said)
