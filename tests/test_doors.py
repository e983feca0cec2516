"""What surrounds every request: for which host it is, which pages may read its answer, what browsers are told, its address."""

import os
import shutil
import socket
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from playwright.async_api import Page, async_playwright
from pytest_aiohttp import AiohttpClient

from taskctl import Settings, create_app
from taskctl.server.doors import ASKED_WITH, METHODS, TOLD, Doors, address_of
from taskctl.server.rates import Rates
from tests.support import Api, Shell, problem_of, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TASKS = "/api/v1/tasks"


@pytest.fixture
def made(aiohttp_client: AiohttpClient, tmp_path: Path) -> Any:
    """Return what makes a client of the API with these settings."""

    async def make(**values: Any) -> Api:
        return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", **values)))

    return make


# ------------------------------------------------------------------------------------------------------------ which hosts

OURS = [
    *("localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1", "127.0.0.1:80", "192.0.2.7", "[::1]", "[2001:db8::1]:8080"),
    socket.gethostname(),
]
NOT_OURS = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3", "xlocalhost", "[evil]"),
    *("", "a:", "127.0.0.1:80:80"),
]


@pytest.mark.parametrize("host", OURS)
async def test_addresses_and_names_of_its_own_are_served(made: Any, host: str) -> None:
    api = await made()
    assert (await api.get(TASKS, headers={"Host": host})).status == 200


@pytest.mark.parametrize("host", [host for host in NOT_OURS if host])
async def test_a_name_that_it_does_not_go_by_is_421_for_whatever_is_asked(made: Any, host: str) -> None:
    api = await made()
    for method, path in (
        ("GET", TASKS),
        ("POST", TASKS),
        ("GET", "/docs"),
        ("GET", "/nothing"),
        ("PUT", TASKS),
        ("GET", "/version"),
    ):
        answer = await api.request(method, path, headers={"Host": host}, json={"title": "x"} if method == "POST" else None)
        problem = await problem_of(answer, 421, "misdirected_request")
        assert problem["detail"] == f"the server does not go by {host!r}; the setting allowed_hosts adds names"
    assert (await (await api.get(TASKS)).json())["items"] == []


async def test_a_name_is_refused_before_anybody_looks_for_a_token(made: Any) -> None:
    api = await made(auth="tokens")
    await problem_of(await api.get(TASKS, headers={"Host": "evil.example"}), 421, "misdirected_request")


async def test_the_probes_are_for_whoever_asks(made: Any) -> None:
    api = await made()
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await api.get(path, headers={"Host": "10-0-0-7.pod.example"})).status == 200
    request = make_mocked_request("GET", "/metrics", headers={"Host": "10-0-0-7.pod.example"})
    assert Doors(rates=Rates(token="off", address="1/day", failures="off")).enter(request, "/metrics") is None


@pytest.mark.parametrize(
    ("allowed", "ours", "others"),
    [
        ("tasks.example.com", ["tasks.example.com", "TASKS.example.com:80", "localhost"], ["example.com", "a.tasks.example.com"]),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "aexample.com", "a.example.com.evil.example"]),
        ("a, b", ["a", "b"], ["c"]),
        ("*", ["anything.example", "[evil]"], []),
    ],
)
async def test_more_names_can_be_allowed(made: Any, allowed: str, ours: list[str], others: list[str]) -> None:
    api = await made(allowed_hosts=allowed)
    for hosts, status in ((ours, 200), (others, 421)):
        assert [(await api.get(TASKS, headers={"Host": host})).status for host in hosts] == [status] * len(hosts)


async def test_the_name_to_listen_on_is_one_that_it_goes_by(made: Any) -> None:
    api = await made(host="Tasks.internal")
    assert (await api.get(TASKS, headers={"Host": "tasks.internal:8080"})).status == 200


async def test_a_request_of_old_without_a_host_is_served(tmp_path: Path) -> None:
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")
    with serving(shell) as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.0 200")


async def test_mounted_in_another_application_it_judges_too_unless_that_is_left_to_it(tmp_path: Path) -> None:
    outer = web.Application()
    for prefix, allowed in (("/strict", ""), ("/lax", "*")):
        settings = Settings(database_url=f"sqlite:///{tmp_path}/{prefix[1:]}.db", allowed_hosts=allowed)
        outer.add_subapp(prefix, create_app(settings))
    async with TestClient(TestServer(outer)) as api:
        host = {"Host": "app.example"}
        await problem_of(await api.get(f"/strict{TASKS}", headers=host), 421, "misdirected_request")
        await problem_of(await api.get("/strict/nothing/livez", headers=host), 421, "misdirected_request")
        assert (await api.get("/strict/livez", headers=host)).status == 200
        assert (await api.get(f"/lax{TASKS}", headers=host)).status == 200


async def test_any_number_of_hosts_takes_a_bounded_memory() -> None:
    doors = Doors()
    for number in range(2000):
        doors.leave(make_mocked_request("GET", TASKS, headers={"Host": f"{number}.example"}), web.Response())
    assert len(doors._verdicts) <= 256


# ---------------------------------------------------------------------------------------------------------------- headers


async def test_every_answer_tells_browsers_to_do_nothing_with_it(made: Any) -> None:
    api = await made()
    for path, status in ((TASKS, 200), ("/livez", 200), ("/nothing", 404), (f"{TASKS}?x=1", 400)):
        answer = await api.get(path)
        assert answer.status == status
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Server"] == "taskctl"
        assert not [name for name in answer.headers if name.startswith("Access-Control-") or name == "Strict-Transport-Security"]
        assert "Origin" not in answer.headers.get("Vary", "")


def test_what_is_no_http_is_answered_with_the_same_headers(tmp_path: Path) -> None:
    options = ["--cors-origins", "https://app.example"]
    with serving(Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db"), *options) as server:
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("BREW", TASKS)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Referrer-Policy"], answer.headers["Vary"]) == (501, "no-referrer", "Origin")
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("GET", TASKS, headers={"Expect": "a miracle", "Origin": "https://app.example"})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (417, "https://app.example")


# ------------------------------------------------------------------------------------------------------------------- CORS

APP, OTHER = "https://app.example", "https://other.example"


def ask(origin: str, method: str = "PATCH", headers: str = "content-type,if-match") -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}


def cors(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def words(text: str) -> set[str]:
    return set(text.lower().split(", "))


async def test_without_the_setting_no_page_may_do_anything(made: Any) -> None:
    api = await made()
    answer = await api.options(TASKS, headers=ask(APP))
    await problem_of(answer, 405, "method_not_allowed")
    assert cors(answer) == cors(await api.get(TASKS, headers={"Origin": APP})) == {}


async def test_an_allowed_origin_is_told_what_it_may_do(made: Any) -> None:
    api = await made(cors_origins=f"{APP}, http://localhost:3000")
    for origin in (APP, "http://localhost:3000"):
        for path in (TASKS, f"{TASKS}/7", "/nothing"):
            answer = await api.options(path, headers=ask(origin))
            assert (answer.status, await answer.read(), answer.headers["Vary"]) == (204, b"", "Origin")
            assert cors(answer) == {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": ASKED_WITH,
                "Access-Control-Max-Age": "600",
                "Access-Control-Expose-Headers": TOLD,
            }


async def test_an_allowed_origin_may_read_answers_and_problems(made: Any) -> None:
    api = await made(cors_origins=APP)
    for path, status in ((TASKS, 200), ("/nothing", 404), (f"{TASKS}?x=1", 400)):
        answer = await api.get(path, headers={"Origin": APP})
        assert answer.status == status
        assert cors(answer) == {"Access-Control-Allow-Origin": APP, "Access-Control-Expose-Headers": TOLD}
        assert "Origin" in answer.headers["Vary"]
        assert "Cross-Origin-Resource-Policy" not in answer.headers
    answer = await api.get(TASKS, headers={"Origin": APP, "Host": "evil.example"})
    assert (answer.status, cors(answer)["Access-Control-Allow-Origin"]) == (421, APP)


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "http://app.example", f"{APP}:8443", f"{APP}.evil.example", "https://APP.example", ""]
)
async def test_another_origin_gets_nothing_and_caches_are_told_that_it_matters(made: Any, origin: str) -> None:
    api = await made(cors_origins=APP)
    for answer in (await api.get(TASKS, headers={"Origin": origin}), await api.options(TASKS, headers=ask(origin))):
        assert cors(answer) == {}
        assert "Origin" in answer.headers["Vary"]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Origin" in (await api.get(TASKS)).headers["Vary"]


async def test_what_an_answer_depends_on_besides_stays_said(made: Any) -> None:
    api = await made(cors_origins=APP)
    assert (await api.get("/api/v1/stats")).headers["Vary"] == "Prefer, Origin"


async def test_all_origins_may_read_if_that_is_said_and_none_with_what_a_browser_keeps_of_a_user(made: Any) -> None:
    api = await made(cors_origins="*")
    for headers in ({}, {"Origin": OTHER}, {"Origin": "null"}):
        answer = await api.get(TASKS, headers=headers)
        assert cors(answer) == {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": TOLD}
        assert "Origin" not in answer.headers.get("Vary", "")
    assert (await api.options(TASKS, headers=ask(OTHER))).status == 204


async def test_who_only_asks_whether_it_may_needs_no_token_and_may_read_that_the_request_itself_needs_one(made: Any) -> None:
    api = await made(auth="tokens", cors_origins=APP)
    assert (await api.options(TASKS, headers=ask(APP))).status == 204
    answer = await api.get(TASKS, headers={"Origin": APP})
    await problem_of(answer, 401, "unauthenticated")
    assert cors(answer)["Access-Control-Allow-Origin"] == APP
    for headers in (ask(OTHER), {"Origin": APP}):
        await problem_of(await api.options(TASKS, headers=headers), 401, "unauthenticated")


async def test_an_options_that_asks_for_nothing_is_one_like_any_other(made: Any) -> None:
    api = await made(cors_origins=APP)
    await problem_of(await api.options(TASKS, headers={"Origin": APP}), 405, "method_not_allowed")


async def test_pages_may_send_and_read_every_header_that_the_document_names(made: Any) -> None:
    document = await (await (await made()).get("/openapi.json")).json()
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    sent = {part["name"].lower() for operation in operations for part in operation["parameters"] if part["in"] == "header"}
    assert words(ASKED_WITH) == sent | {"authorization", "content-type"}
    assert words(METHODS) == {method for item in document["paths"].values() for method in item}
    for_browsers = {name.lower() for name in ("Vary", "X-Content-Type-Options", "Referrer-Policy", "Content-Security-Policy")}
    for_browsers |= {"cross-origin-resource-policy", "cache-control"}  # the last may be read anyway
    assert {name.lower() for name in document["components"]["headers"]} - for_browsers <= words(TOLD)


async def test_a_form_of_another_page_cannot_write(made: Any) -> None:
    """What a page may send without asking first has another type than JSON, and is no DELETE."""
    api = await made()
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = await api.post(TASKS, data=b'{"title": "x"}', headers={"Content-Type": media, "Origin": OTHER})
        await problem_of(answer, 415, "unsupported_media_type")


PAGE = b"<!DOCTYPE html><title>a page</title>"
TRY = """async (url) => {
    const said = []
    const tell = async (request) => {
        try { const answer = await request; said.push([answer.status, answer.headers.get('etag')]) } catch { said.push('no') }
    }
    const json = {'Content-Type': 'application/json'}
    await tell(fetch(url + '/api/v1/tasks', {method: 'POST', headers: json, body: '{"title": "from a page"}'}))
    await tell(fetch(url + '/api/v1/tasks/1'))
    const headers = {...json, 'If-Match': '"1"', 'Idempotency-Key': 'once'}
    await tell(fetch(url + '/api/v1/tasks/1', {method: 'PATCH', headers, body: '{"title": "changed"}'}))
    await tell(fetch(url + '/api/v1/tasks/99'))
    await tell(fetch(url + '/api/v1/tasks/1', {method: 'DELETE'}))
    return said
}"""


@pytest.fixture
async def pages() -> Any:
    """Serve an empty page, which has the origin http://127.0.0.1:PORT and also http://localhost:PORT."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        yield server.port


@pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="there is no Chromium on this machine")
async def test_in_a_browser_a_page_of_an_allowed_origin_can_and_another_one_cannot(pages: int, tmp_path: Path) -> None:
    assert CHROMIUM, "there is no Chromium, and CI is set"
    allowed, other = f"http://127.0.0.1:{pages}", f"http://localhost:{pages}"
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")
    with serving(shell, "--cors-origins", allowed) as server:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

            async def tried(origin: str) -> Any:
                page: Page = await browser.new_page()
                await page.goto(f"{origin}/")
                return await page.evaluate(TRY, server.url)

            assert await tried(other) == ["no"] * 5
            assert shell("task", "list", "--all", "-o", "json").json == []
            assert await tried(allowed) == [[201, '"1"'], [200, '"1"'], [200, '"2"'], [404, None], [204, None]]
            await browser.close()


# ------------------------------------------------------------------------------------------------------------- where from

PROXIES = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8:1::/48")


def came_from(peer: str, *forwarded: str, proxies: tuple[str, ...] = PROXIES) -> str:
    """Return where a request from that peer, with these headers, is taken to come from."""
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    return Doors(proxies=proxies).address_of(make_mocked_request("GET", "/").clone(headers=headers, remote=peer))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),  # whoever is no proxy can say what they like
        ("203.0.113.5", ["198.51.100.1, 10.0.0.1"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["127.0.0.1, 198.51.100.1"], "198.51.100.1"),  # what stands before it may be made up
        ("10.0.0.1", ["127.0.0.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.9.9.9,192.0.2.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.2"], "192.0.2.2"),  # a neighbour of a proxy is none
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),  # a client inside the network of the proxies
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, evil, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%anything"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8:2::7]:443"], "2001:db8:2::7"),
        ("10.0.0.1", ["2001:DB8:2:0::7, 2001:db8:1::1"], "2001:db8:2::7"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("fe80::1%eth0", ["198.51.100.1"], "fe80::1%eth0"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_address_of_a_client_is_what_the_last_trusted_proxy_says(peer: str, forwarded: list[str], address: str) -> None:
    assert came_from(peer, *forwarded) == address


@pytest.mark.parametrize(
    ("peer", "address"), [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("", "")]
)
def test_without_trusted_proxies_it_is_the_peers(peer: str, address: str) -> None:
    assert came_from(peer, "198.51.100.1", proxies=()) == address


@given(st.lists(st.ip_addresses().map(str) | st.text("0123456789abcdef:.[], %x", max_size=20), max_size=6))
def test_whatever_a_client_says_the_proxy_has_the_last_word(said: list[str]) -> None:
    assert came_from("10.0.0.1", *said, "203.0.113.5") == "203.0.113.5"
    assert came_from("203.0.113.5", *said) == "203.0.113.5"


async def test_an_application_tells_the_address_of_a_request(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", trusted_proxies="127.0.0.1"))
    seen = []

    async def look(request: web.Request) -> web.Response:
        seen.append(address_of(request))
        return web.Response()

    app.router.add_get("/look", look)
    async with TestClient(TestServer(app)) as api:
        await api.get("/look", headers={"X-Forwarded-For": "127.0.0.9, 198.51.100.1"})
    assert seen == ["198.51.100.1"]
