"""Secrets that strangers, clients and operators put where they do not belong appear in no log, no problem and no header.

What is planted where stands in lists below; each place where something is told to somebody (`Told`) is searched for all of it.
"""

import json
import secrets
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskctl import Settings
from taskctl.access import new_secret, redacted
from tests.redis import Server as RedisServer
from tests.support import SECONDS, Server, Shell, serving

SHOWN = 12
"""So many characters of a secret in a row are none that came there by chance."""


class Canary(NamedTuple):
    """A secret that is looked for."""

    name: str
    text: str
    secret: str

    def found(self, told: str) -> list[str]:
        """Return where any part of it is."""
        for form in (told, unquote(told), unquote(unquote(told))):
            for start in range(len(self.secret) - SHOWN + 1):
                at = form.find(self.secret[start : start + SHOWN])
                if at >= 0:
                    return [f"{self.name}: ...{form[max(0, at - 150) : at + 60]!r}"]
        return []


def token(name: str) -> Canary:
    text = new_secret()[1]
    return Canary(name, text, text.split("_")[3])


def password(name: str) -> Canary:
    text = f"Pw{secrets.token_hex(12)}"
    return Canary(name, text, text)


TOKEN = token("a client's token")
LOGIN = password("a client's password")
DATABASE, DATABASE_PARAMETER, DATABASE_FILE = (
    password(f"the database's password, {where}") for where in ("URL", "query", "file")
)
REDIS, REDIS_FILE = (password(f"the password of Redis, {where}") for where in ("URL", "file"))
CANARIES = [TOKEN, LOGIN, DATABASE, DATABASE_PARAMETER, DATABASE_FILE, REDIS, REDIS_FILE]


UNLIMITED = [word for what in ("token", "address", "failures") for word in (f"--rate-limit-{what}", "off")]
"""Or a limit would answer for what is behind it."""


def unseen(told: str, where: str) -> None:
    found = [line for canary in CANARIES for line in canary.found(told)]
    assert not found, f"{where}: {found}"


# -------------------------------------------------------------------------------------------------- what a client can send

T = TOKEN.text
JSON = "Content-Type: application/json"
MANGLED = [
    T,
    T.replace("_", "%5F"),
    T.replace("_", "%255f"),
    "".join(f"%{ord(c):02X}" for c in T),
    f"x{T}",
    f"{T}x",
    T[:-9],
    T[:40],
]

TARGETS = [
    *(
        f"{start}{form}{end}"
        for form in MANGLED
        for start, end in [("/", ""), ("/api/v1/tasks/", ""), ("/api/v1/tasks/", "/history")]
    ),
    f"/api/v1/{T}/{T}",
    f"/docs/{T}",
    f"/%ff/{T}",
    f"//{T}@x/",
    *(f"/api/v1/tasks?{query}" for query in (f"{T}=1", f"x={T}", f"{T}", f"%ff={T}")),
    *(
        f"/api/v1/tasks?{name}={T}"
        for name in ("status", "label", "project", "priority", "due_before", "overdue", "q", "filter", "sort", "limit", "cursor")
    ),
    *(
        "/api/v1/tasks?filter=" + quote(text)
        for text in (
            *(f"status:{T}", f"{T}:x", f"due<{T}", f"due<{T} x", f"label:{T}", f"(({T}", f'"{T}', f"id:{T}", f"priority>={T}"),
            *(f"not {T}", f"milk or {T}", "x " * 50 + T + ")", f"priority>{'x' * 50}{T}"),
        )
    ),
    f"/api/v1/tasks?limit=1&filter=not%20{T}",
    f"/api/v1/tasks?limit=1&filter=not%20{T.replace('_', '%5F')}",
    f"/api/v1/changes?since={T}",
    f"/api/v1/changes?epoch={T}",
    f"/api/v1/tasks/1?dry_run={T}",
    f"/livez?access_token={T}",
    f"/readyz?verbose={T}",
]

HEADERS = [
    f"Authorization: Bearer {T}",
    f"Authorization: Basic {b64encode(f'me:{LOGIN.text}'.encode()).decode()}",
    f"Authorization: {T}",
    f"Proxy-Authorization: Bearer {T}",
    f"X-{T}: x",
    f"X-Request-Id: {T}",
    f"X-Request-Id: a.{T}.b",
    f"X-Request-Id: {T[:40]}",
    f"Cookie: session={T}; password={LOGIN.text}",
    f"Host: {T}",
    f"Host: {T}@x",
    f"Host: me:{LOGIN.text}@x",
    *(f"{name}: {T}" for name in ("Idempotency-Key", "If-Match", "If-None-Match", "Prefer", "Expect", "Accept", "Range")),
    *(f"{name}: {T}" for name in ("Content-Type", "Content-Encoding", "Transfer-Encoding", "X-Taskctl-Seq", "Cache-Control")),
    f'If-Match: "{T}"',
    f'If-None-Match: W/"{T}", "1"',
    f"Prefer: timezone={T}, return={T}, count={T}",
    f"Content-Type: application/json; charset={T}",
    f"Upgrade: {T}",
    f"Connection: {T}",
    f"{T}",
    f": {T}",
    f"{T} : x",
    f" {T}: x",
    f"X-Long: {T}{'x' * 9000}",
    f"Origin: http://{T}",
    f"Forwarded: for={T}",
    f"Content-Length: {T}",
]

BODIES = [
    f'"{T}"',
    f'{{"title": "x", "{T}": 1}}',
    f'{{"{T}": 1}}',
    f'{{"{T}": 1, "{T}": 2}}',
    *(
        f'{{"title": "x", "{name}": "{T}"}}'
        for name in ("status", "priority", "due", "labels", "uid", "id", "version", "created_at")
    ),
    f'{{"title": "x", "labels": ["{T}\\u0000"]}}',
    f'{{"title": ["{T}"]}}',
    f'{{"title": "{T}\\u001b"}}',
    f'{{"title": "x", "status": "{T[:40]}"}}',
    f'{{"title": "x", "status": "\\u0074c_{T[3:]}"}}',
    f'{{"title": "x", "status": "postgresql://me:{LOGIN.text}@db/x"}}',
    f'{{"title": "{T}',
    T,
    f'{{"title": {T}}}',
    f'{{"title": "x"}} {T}',
    f'{{"title": "{T}\n"}}',
    f'{{"operations": "{T}"}}',
    f'{{"operations": [], "{T}": 1}}',
    f'{{"operations": [{{"op": "{T}"}}]}}',
    f'{{"operations": [{{"op": "{T}"}}], "atomic": false}}',
    f'{{"operations": [{{"op": "edit", "id": "{T}", "patch": {{}}}}], "atomic": false}}',
    f'{{"operations": [{{"op": "add", "task": {{"title": "x", "{T}": 1, "due": "{T}"}}}}], "atomic": false}}',
    f'{{"operations": [{{"op": "remove", "id": 1, "if_version": "{T}"}}], "atomic": "{T}"}}',
]

RAW = [
    f"{T}\r\n\r\n",
    f"{T} / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"GET {T} HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"GET /{T} HTTP/9.9\r\nHost: [::1]\r\n\r\n",
    f"GET /{T}\r\n\r\n",
    f"GET /{T} {T} HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"GET /\x1b{T} HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"GET http://me:{LOGIN.text}@x/{T} HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"GET http://me:{LOGIN.text}@x:port/ HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"CONNECT {T}:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    f"OPTIONS * HTTP/1.1\r\nHost: {T}\r\n\r\n",
    f"POST /api/v1/tasks HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n{JSON}\r\n\r\n{T}\r\n\r\n",
]


def requests(bearer: str) -> Iterator[bytes]:
    """Yield each request once, as it goes over the wire, from whoever has this token, if it is one."""
    login = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    end = f"{login}Connection: close\r\n\r\n"
    for target in TARGETS:
        yield f"GET {target} HTTP/1.1\r\nHost: [::1]\r\n{end}".encode()
    for line in HEADERS:
        host = "" if line.startswith("Host") else "Host: [::1]\r\n"
        yield f"GET /api/v1/tasks/1 HTTP/1.1\r\n{host}{line}\r\n{end}".encode()
        typed = "" if line.startswith("Content-Type") else "Content-Type: application/json\r\n"
        sized = "" if line.startswith(("Content-Length", "Transfer-Encoding")) else "Content-Length: 2\r\n"
        yield f"PATCH /api/v1/tasks/1 HTTP/1.1\r\n{host}{typed}{sized}{line}\r\n{end}{{}}".encode()
    for body in BODIES:
        for method, path in (("POST", "/tasks"), ("PATCH", "/tasks/1"), ("PUT", "/tasks/1"), ("POST", "/batch")):
            raw = body.encode()
            head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: [::1]\r\n{JSON}\r\nContent-Length: {len(raw)}\r\n"
            yield (head + end).encode() + raw
    for line in RAW:
        yield line.encode("latin-1")


def ask(port: int, request: bytes) -> str:
    """Send a request on a connection of its own, and return all that comes back."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)) as raw:
        raw.sendall(request)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
    return answer.decode("latin-1")


def ask_all(server: Server, bearer: str) -> int:
    """Send everything, and look into each answer; return how many were sent."""
    count = 0
    for request in requests(bearer):
        unseen(ask(server.port, request), repr(request))
        count += 1
    return count


# ---------------------------------------------------------------------------------------------------------------- servers


@pytest.mark.parametrize(
    ("format", "level", "auth"),
    [("console", "info", "none"), ("json", "debug", "none"), ("console", "debug", "tokens"), ("json", "info", "tokens")],
)
def test_what_a_client_sends_is_told_to_nobody(tmp_path: Path, format: str, level: str, auth: str) -> None:
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")
    for title in ("one", "two"):
        shell("task", "add", title)
    bearer = ""
    if auth == "tokens":
        bearer = shell("token", "create", "me", "--scope", "admin").out.strip()
    with serving(shell, "--log-format", format, "--log-level", level, "--auth", auth, *UNLIMITED) as server:
        count = ask_all(server, bearer)
        if bearer:
            assert '"items":[{' in ask(server.port, next(requests(bearer)).replace(f"/{T}".encode(), b"/api/v1/tasks", 1))
        ask(server.port, b"GET /version HTTP/1.1\r\nHost: [::1]\r\nX-Request-Id: the-last-one\r\nConnection: close\r\n\r\n")
        server.logged("the-last-one")
        assert server.stop() == 0
    log = "".join(server.log)
    assert log.count("[secret]") > 10, "nothing was there to be taken out"
    assert log.count("request") >= count
    assert "Traceback" not in log
    unseen(log, "the log")
    if bearer:
        assert bearer.split("_")[2] in log, "who it was is told"
        assert not Canary("the token that is good", bearer, bearer.split("_")[3]).found(log)


@pytest.mark.parametrize("format", ["console", "json"])
def test_what_an_operator_sets_is_told_to_nobody(tmp_path: Path, format: str) -> None:
    """Neither the database nor the Redis is there, or lets anybody in."""
    secret = tmp_path / "redis-password"
    secret.write_text(REDIS_FILE.text)
    with RedisServer(f"requirepass {secrets.token_hex(8)}") as redis:
        shell = Shell(
            tmp_path,
            TASKCTL_DATABASE_URL=f"postgresql://me:{DATABASE.text}@127.0.0.1:1/tasks?sslpassword={DATABASE_PARAMETER.text}",
            TASKCTL_REDIS_URL=f"redis://me:{REDIS.text}@127.0.0.1:{redis.port}/0",
            TASKCTL_REDIS_PASSWORD_FILE=str(secret),
        )
        options = ["--migrate", "off", "--log-format", format, "--log-level", "debug", "--database-timeout", "1"]
        with serving(shell, *options) as server:
            for target in ("/readyz?verbose", "/api/v1/tasks", "/api/v1/cache", "/version"):
                unseen(ask(server.port, f"GET {target} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n".encode()), target)
            server.logged("the database is away")
            server.stop()
        unseen("".join(server.log), "the log")


# ------------------------------------------------------------------------------------------------------- the command line

PLACES = {
    "a database that is away": [f"postgresql://me:{DATABASE.text}@127.0.0.1:1/x?password={DATABASE_PARAMETER.text}"],
    "several hosts": [f"postgresql://me:{DATABASE.text}@127.0.0.1:1,127.0.0.1:2/x"],
    "a slash in the password": [f"postgresql://me:/{DATABASE.text}@127.0.0.1:1/x"],
    "an @ in the password": [f"postgresql://me:@{DATABASE.text}@127.0.0.1:1/x"],
    "no such parameter": [f"postgresql://me@127.0.0.1:1/x?pasword={DATABASE.text}"],
    "another kind": [f"mysql://me:{DATABASE.text}@127.0.0.1/x"],
    "a file with a user": [f"sqlite://me:{DATABASE.text}@x/y"],
    "a port that is none": [f"postgresql://me@127.0.0.1:{DATABASE.text}/x"],
}
COMMANDS = [["task", "list"], ["task", "add", "x"], ["db", "current"], ["db", "check"], ["db", "upgrade"], ["stats"]]


@pytest.mark.parametrize("url", [url for [url] in PLACES.values()], ids=PLACES)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_place_that_cannot_be_used_is_told_without_its_password(tmp_path: Path, command: list[str], url: str) -> None:
    shell = Shell(tmp_path, TASKCTL_DATABASE_TIMEOUT="1")
    ran = shell("-v", *command, "--database-url", url)
    assert ran.code in (2, 7)
    assert ran.err
    unseen(ran.out + ran.err, "stderr")
    assert "Traceback" not in ran.err


def test_nothing_of_a_server_and_its_login_is_told(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    url = f"http://me:{LOGIN.text}@127.0.0.1:1"
    for command in (["task", "list"], ["db", "check"], ["serve"], ["api", "GET", "/tasks"], ["task", "list", "-o", "json"]):
        ran = shell("-v", *command, "--server", url)
        assert ran.code != 0
        unseen(ran.out + ran.err, " ".join(command))


@pytest.mark.parametrize("text", [b"\xff%s", b"%s\n%s", b"%s\0"], ids=["bytes", "two lines", "NUL"])
def test_a_password_file_that_is_wrong_is_named_and_not_shown(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(text.replace(b"%s", DATABASE_FILE.text.encode()))
    shell = Shell(tmp_path, TASKCTL_DATABASE_TIMEOUT="1")
    place = ["--database-url", "postgresql://me@127.0.0.1:1/x", "--database-password-file", str(file)]
    for command in (["task", "list"], ["db", "current"], ["serve", "--log-format", "json"]):
        ran = shell(*command, *place)
        assert ran.code in (1, 2, 7)
        unseen(ran.out + ran.err, " ".join(command))


def test_a_mistake_in_the_file_of_settings_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for text in (
        f'database_url = ["postgresql://me:{DATABASE.text}@x/y"]',
        f'redis_url = {{url = "redis://:{REDIS.text}@x"}}',
        f'redis_url = "redis://:{REDIS.text}@x',
        f"redis_url = redis://:{REDIS.text}@x",
    ):
        file.write_text(text)
        ran = Shell(tmp_path, TASKCTL_CONFIG=str(file))("task", "list")
        assert ran.code == 2
        unseen(ran.err, text)


def test_settings_can_be_shown() -> None:
    settings = Settings(
        database_url=f"postgresql://me:{DATABASE.text}@db/x?sslpassword={DATABASE_PARAMETER.text}",
        redis_url=f"redis://:p@{REDIS.text}@cache/0",
        server=f"https://me:{LOGIN.text}@tasks",
    )
    unseen(repr(settings), "repr")
    unseen(str(settings), "str")
    assert "cache/0" in repr(settings)
    assert repr(Settings(port=81)).startswith("Settings(database_url='', ")
    assert "port=81" in repr(Settings(port=81))


def test_json_stays_json_when_secrets_are_taken_out_of_it() -> None:
    for text in (
        f'a "{T}" b',
        f"password={LOGIN.text}\\",
        f'password="{LOGIN.text}"',
        f'x://u:\\{LOGIN.text}"@h',
        f"password=\n\t{T}",
    ):
        safe = json.loads(redacted(json.dumps({"x": text, "y": text})))
        assert safe.keys() == {"x", "y"}


PARTS = [
    "password",
    "'password'",
    '"password"',
    "=",
    " = ",
    ":",
    "://u:",
    "@",
    "'",
    '"',
    '\\"',
    "\\",
    "\n",
    " ",
    ",",
    "}",
    "]",
    "x",
    "é",
]


@given(
    st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), max_size=3), st.sampled_from([(", ", ": "), (",", ":")])
)
def test_whatever_is_taken_out_of_json_leaves_json_of_the_same_shape(texts: list[str], separators: tuple[str, str]) -> None:
    document = {"password": texts, "x": {"password": None, "y": [*texts, 1]}, "z": "".join(texts)}
    safe = json.loads(redacted(json.dumps(document, separators=separators)))
    assert safe.keys() == document.keys()
    assert len(safe["password"]) == len(texts)
    assert (safe["x"]["password"], len(safe["x"]["y"])) == (None, len(texts) + 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("postgresql://u:p@ss@host/db", "postgresql://u:[secret]@host/db"),
        ("redis://:s@cret@h and a@b", "redis://:[secret]@h and a@b"),
        ('redis://:s"cret@h', "redis://:[secret]@h"),
        ("http://h:80/ a@b", "http://h:80/ a@b"),
        ("password=x&y=z", "password=[secret]&y=z"),
        ("PGPASSWORD=x sslPassword=y", "PGPASSWORD=[secret] sslPassword=[secret]"),
        ("password = x y", "password = [secret] y"),
        ("password='x y' user=z", "password='[secret]' user=z"),
        (r"password='x\' y' user=z", "password='[secret]' user=z"),
        ("password='x", "password='[secret]"),
        ('password="x y" user=z', 'password="[secret]" user=z'),
        ("""{'password': 'x"y', 'user': 'z'}""", "{'password': '[secret]', 'user': 'z'}"),
        ("password_file=x, no password: y", "password_file=x, no password: y"),
    ],
)
def test_a_password_is_taken_out_as_it_may_be_written_and_not_what_stands_beside_it(text: str, told: str) -> None:
    assert redacted(text) == told
    assert redacted(told) == told
    safe = json.loads(redacted(json.dumps({"x": text, "y": "z"})))
    assert safe == {"x": told, "y": "z"}


def test_a_quote_that_nothing_ends_takes_no_other_line_along() -> None:
    assert redacted("password='x y\nuser=z") == "password='[secret]\nuser=z"


MEBIBYTE = 1 << 20
OPENINGS = [
    *("://", "://a", "://a:", "@://a:", "://a:@", '://a:"a', "://a:\\"),
    *("password", "password ", "password=", "password= ", "password='", 'password="', 'password=\\"', "password='\\\\'"),
    *("'password'", "'password': ", "'password': '", '"password":"'),
    *("tc_", "tc%", "tc%25", "tc_a", "tc_a_123456789012_", "tc_a_123456789012%25"),
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_long_text_takes_no_longer_than_its_length(opening: str) -> None:
    """If each opening were looked at up to the end of the text, one of these would take hours."""
    for rest in (opening, "a", " ", "'", '"', '"a', "\\a", "%25"):
        redacted(opening + rest * (MEBIBYTE // len(rest)))


def test_a_request_of_the_longest_kind_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The answer to a client takes no longer than the test waits for it; the line in the log is made before it."""
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")
    with serving(shell, "--auth", "tokens") as server:
        for opening in ("://", "://a:", "@://a:", "password%20=", "%25"):
            for host in ("[::1]", "evil.example"):
                target = f"/{opening * (65_000 // len(opening))}"
                answer = ask(server.port, f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                assert answer.startswith(("HTTP/1.1 401", "HTTP/1.1 421"))
        assert server.stop() == 0
