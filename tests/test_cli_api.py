"""`taskctl api`: requests as they are, to a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with Server(Shell(tmp_path)) as server:
        yield Shell(tmp_path, TASKCTL_SERVER=server.url)


def test_any_request_can_be_sent_and_is_answered_as_it_is(shell: Shell, tmp_path: Path) -> None:
    added = shell("api", "post", "/tasks", "-d", '{"title": "a", "labels": ["x"]}').json
    assert (added["id"], added["labels"]) == (1, ["x"])
    (tmp_path / "patch.json").write_text('{"due": "2030-01-01"}')
    edited = shell("api", "PATCH", "/api/v1/tasks/1", "-d", f"@{tmp_path}/patch.json", "-H", 'If-Match: "1"').json
    assert edited["due"] == "2030-01-01"
    assert shell("api", "GET", "tasks?limit=1").json["items"] == [edited]
    assert shell("api", "DELETE", "/tasks/1").out == ""
    piped = shell("api", "POST", "/tasks", "-d", "-", stdin='{"title": "piped"}')
    assert piped.json["title"] == "piped"


def test_status_and_headers_are_printed_if_they_are_wanted(shell: Shell) -> None:
    head, _, body = shell("api", "POST", "/tasks", "-d", '{"title": "a"}', "-i").out.partition("\n\n")
    assert head.splitlines()[0] == "HTTP 201"
    assert 'etag: "1"' in head.lower().splitlines()
    assert json.loads(body)["title"] == "a"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("GET", "/tasks/9"), 3, "there is no task 9"),
        (("POST", "/tasks", "-d", "{}"), 6, "title is missing"),
        (("PATCH", "/batch", "-d", "{}"), 6, "PATCH does not fit here"),
        (("GET", "/nothing"), 3, "there is nothing at this address"),
        (("HEAD", "/tasks/9"), 3, "There is nothing here: the answer was 404"),
        (("HEAD", "/tasks?x=1"), 6, "The request cannot be understood: the answer was 400"),
        (("FOO", "/tasks"), 6, "there is no such method here"),
        (("GET", "/docs/nothing"), 3, "there is nothing at this address"),
        (("GET", "/tasks", "-H", "nonsense"), 2, "is not a header"),
        (("POST", "/tasks", "-d", "@/nowhere"), 2, "/nowhere cannot be read"),
        (("G T", "/tasks"), 6, "this cannot be sent"),
    ],
)
def test_problems_are_those_of_any_command(shell: Shell, arguments: tuple[str, ...], code: int, told: str) -> None:
    ran = shell("api", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err


def test_what_lies_beside_the_api_can_be_asked_for(shell: Shell) -> None:
    for path, told in (
        ("/livez", "ok"),
        ("/docs", "<title>"),
        ("/docs/initializer.js", "SwaggerUI"),
        ("docs/swagger-ui.css", "{"),
    ):
        ran = shell("api", "GET", path)
        assert (ran.code, told in ran.out) == (0, True)
    head = shell("api", "HEAD", "/tasks/9", "-i")
    assert (head.code, head.out.splitlines()[0]) == (3, "HTTP 404")
    assert [problem["status"] for problem in shell("api", "HEAD", "/tasks/9", "-o", "json").problems] == [404]


def test_it_needs_a_server(tmp_path: Path) -> None:
    ran = Shell(tmp_path)("api", "GET", "/tasks")
    assert (ran.code, ran.out) == (2, "")
    assert "--server" in ran.err
    away = Shell(tmp_path, TASKCTL_SERVER="http://127.0.0.1:9")("api", "GET", "/tasks")
    assert (away.code, "cannot be reached" in away.err) == (7, True)
