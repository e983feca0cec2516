"""`taskctl serve` by HTTPS: with certificates of a CA of the tests' own, renewed while it runs, and files that cannot be used."""

import re
import signal
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from taskctl.server.tls import Certificate
from tests.support import SECONDS, Server, Shell, serving


class Files(NamedTuple):
    """A CA, and the files of a certificate that it has issued."""

    ca: trustme.CA
    cert: Path
    key: Path

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def issue(self) -> None:
        issued = self.ca.issue_cert("localhost", "127.0.0.1", "tasks.example")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(trustme.CA(), tmp_path / "cert.pem", tmp_path / "key.pem")
    files.issue()
    return files


@pytest.fixture
def server(shell: Shell, files: Files) -> Iterator[Server]:
    with serving(shell, *files.options, "--allowed-hosts", "tasks.example") as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in "".join(server.log)
        assert "has no effect" not in "".join(server.log)


@contextmanager
def connected(server: Server, files: Files, name: str) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw,
        files.trusting().wrap_socket(raw, server_hostname=name) as connection,
    ):
        yield connection


def shown(server: Server, files: Files, name: str = "127.0.0.1") -> str:
    """Return the serial number of the certificate that a new connection is shown."""
    with connected(server, files, name) as connection:
        certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_it_serves_by_https_and_says_so(server: Server, files: Files, shell: Shell) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    with closing(HTTPSConnection("localhost", server.port, timeout=SECONDS, context=files.trusting())) as connection:
        for _ in range(2):
            connection.request("GET", "/api/v1/tasks")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"items":[],"next_cursor":null}')
    with closing(HTTPConnection("localhost", server.port, timeout=SECONDS)) as connection:
        connection.request("GET", "/api/v1/tasks")
        with pytest.raises(ConnectionError):
            connection.getresponse()


def test_the_command_line_works_on_it_with_a_ca_that_it_is_told_of(server: Server, files: Files, shell: Shell) -> None:
    files.ca.cert_pem.write_to_path(shell.home / "ca.pem")
    told = {"SSL_CERT_FILE": str(shell.home / "ca.pem"), "TASKCTL_DATABASE_URL": "", "TASKCTL_SERVER": server.url}
    assert shell("task", "add", "by HTTPS", "-o", "ids", env=told).out == "1\n"
    assert shell("task", "list", env={**told, "SSL_CERT_FILE": ""}).code == 7
    plain = {**told, "TASKCTL_SERVER": server.url.replace("https:", "http:")}
    assert "if it speaks HTTPS, its address begins with https://" in shell.fails(7, "task", "list", env=plain)


def speaking(files: Files, version: str) -> ssl.SSLContext:
    """Return a client's context that speaks this version alone."""
    context = files.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_it_speaks_tls_of_today(server: Server, files: Files, version: str) -> None:
    with closing(HTTPSConnection("localhost", server.port, context=speaking(files, version))) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"


def test_it_does_not_speak_tls_of_before_1_2(files: Files) -> None:
    said, answered = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = speaking(files, "TLSv1_1").wrap_bio(answered, said, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server = Certificate(str(files.cert), str(files.key)).context.wrap_bio(said, answered, server_side=True)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.do_handshake()


@pytest.mark.parametrize(
    ("host", "held"), [("tasks.example", True), ("tasks.example:8443", True), ("localhost", False), ("127.0.0.1", False)]
)
def test_browsers_are_held_to_https_at_names_but_not_at_localhost(server: Server, files: Files, host: str, held: bool) -> None:
    with closing(HTTPSConnection("localhost", server.port, timeout=SECONDS, context=files.trusting())) as connection:
        connection.request("GET", "/api/v1/tasks", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["Strict-Transport-Security"] == ("max-age=31536000" if held else None)


def test_refusals_that_end_the_connection_are_read_by_the_client(server: Server, files: Files) -> None:
    json = b"Content-Type: application/json\r\n"
    sent = {
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + json + b"Content-Length: 2000000\r\n\r\n": 413,
        b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n": 501,
        b"this is no HTTP\r\n\r\n": 400,
    }
    for request, status in sent.items():
        with connected(server, files, "localhost") as connection:
            connection.sendall(request + (b"x" * 100_000 if status == 413 else b""))
            answer = b""
            while b"}" not in answer:
                got = connection.recv(65536)
                assert got, answer
                answer += got
        assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"], ids=["by name", "by address"])
def test_after_a_hangup_signal_new_connections_see_the_renewed_certificate(server: Server, files: Files, name: str) -> None:
    before = shown(server, files, name)
    with closing(HTTPSConnection("localhost", server.port, timeout=SECONDS, context=files.trusting())) as kept:
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b"ok\n"
        files.issue()
        assert shown(server, files, name) == before
        server.process.send_signal(signal.SIGHUP)
        server.logged("the certificate was read again")
        assert (renewed := shown(server, files, name)) != before
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b"ok\n"
    files.key.write_bytes(files.ca.issue_cert("localhost").private_key_pem.bytes())
    server.process.send_signal(signal.SIGHUP)
    assert "tls_key" in server.logged("the certificate stays as it was").string
    assert shown(server, files, name) == renewed


def test_a_hangup_signal_does_nothing_to_a_server_without_a_certificate(shell: Shell) -> None:
    with serving(shell) as server:
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
            with closing(HTTPConnection("localhost", server.port, timeout=SECONDS)) as connection:
                connection.request("GET", "/livez")
                assert connection.getresponse().read() == b"ok\n"
        assert server.stop() == 0
        assert "certificate" not in "".join(server.log)


def spoil(files: Files, how: str) -> None:
    """Make one of the files one that cannot be used."""
    match how:
        case "no certificate":
            files.cert.write_text("junk")
        case "no key":
            files.key.write_text("junk")
        case "another key":
            files.key.write_bytes(files.ca.issue_cert("localhost").private_key_pem.bytes())
        case "an encrypted key":
            key = load_pem_private_key(files.key.read_bytes(), None)
            files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
        case "a certificate that is not there":
            files.cert.unlink()
        case "a key that is a folder":
            files.key.unlink()
            files.key.mkdir()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no certificate", "PEM"),
        ("no key", "PEM"),
        ("another key", "tls_key: .* is not the key of the certificate"),
        ("an encrypted key", "not encrypted"),
        ("a certificate that is not there", "tls_cert: .* cannot be read: No such file"),
        ("a key that is a folder", "tls_key: .* cannot be read: Is a directory"),
    ],
)
def test_files_that_cannot_be_used_are_named_before_it_listens(shell: Shell, files: Files, how: str, said: str) -> None:
    spoil(files, how)
    line = shell.fails(2, "serve", "--port", "0", *files.options)
    assert re.search(said, line), line


def test_one_file_without_the_other_is_a_mistake(shell: Shell, files: Files) -> None:
    assert "tls_key is not" in shell.fails(2, "serve", "--tls-cert", str(files.cert))
    assert "tls_cert is not" in shell.fails(2, "serve", "--tls-key", str(files.key))
