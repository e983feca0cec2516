"""How much may be asked for in a time: as a model says, in bounded memory, without threads, and told to whoever asks too much."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_aiohttp import AiohttpClient

from taskctl import Settings, create_app
from taskctl.errors import TooManyRequests
from taskctl.server import rates
from taskctl.server.rates import KEPT, Rates
from tests.support import Shell, problem_of, serving
from tests.test_secrets import ask


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock | None = None, **limits: str) -> Rates:
    return Rates(**{"token": "off", "address": "off", "failures": "off", **limits}, clock=clock or Clock())


def refused(call: Callable[[str], object], who: str) -> TooManyRequests | None:
    try:
        call(who)
    except TooManyRequests as e:
        return e
    return None


def test_a_token_may_ask_so_often_and_is_told_how_often_more() -> None:
    clock = Clock()
    found = made(clock, token="3/10 seconds")
    policy = '"token";q=3;w=10'
    assert found.used("a") == {"RateLimit-Policy": policy, "RateLimit": '"token";r=2;t=10'}
    clock.now += 3.5
    assert found.used("a") == {"RateLimit-Policy": policy, "RateLimit": '"token";r=1;t=7'}
    assert found.used("b")["RateLimit"] == '"token";r=2;t=10'
    assert found.used("a")["RateLimit"] == '"token";r=0;t=7'
    failure = refused(found.used, "a")
    assert failure
    assert failure.extra == {"retry_after": 7, "limit": "token", "quota": 3, "window": 10}
    assert failure.detail == "this token may ask 3 times in 10 seconds, and no more for another 7"
    clock.now += 6.5
    assert found.used("a")["RateLimit"] == '"token";r=2;t=10'


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 4)), max_size=60), st.integers(1, 5), st.integers(1, 9))
def test_counts_are_those_of_a_model(steps: list[tuple[str, float]], amount: int, seconds: int) -> None:
    clock = Clock()
    found = made(clock, address=f"{amount}/{seconds} seconds")
    began: dict[str, float] = {}
    counts: dict[str, int] = {}
    for who, later in steps:
        clock.now += later
        if who not in began or clock.now >= began[who] + seconds:
            began[who], counts[who] = clock.now, 0
        counts[who] += 1
        failure = refused(found.asked, who)
        assert (failure is not None) == (counts[who] > amount)
        if failure:
            assert 0 <= failure.extra["retry_after"] - (began[who] + seconds - clock.now) <= 1


@pytest.mark.parametrize("off", ["", "off"])
def test_what_is_off_counts_nothing(off: str) -> None:
    found = Rates(token=off, address=off, failures=off)
    for _ in range(100):
        assert found.used("a") == {}
        found.asked("192.0.2.1")
        found.attempted("192.0.2.1")
        found.excused("192.0.2.1")


def test_addresses_of_one_network_of_a_customer_are_one() -> None:
    found = made(address="2/minute")
    for address in ("2001:db8::1", "2001:db8:0:0:ffff::2"):
        found.asked(address)
    assert refused(found.asked, "2001:db8::3")
    assert not refused(found.asked, "2001:db8:0:1::1")
    assert not refused(found.asked, "2001:db8:1::1")
    assert not refused(found.asked, "192.0.2.1")
    assert not refused(found.asked, "fe80::1%eth0")
    assert not refused(found.asked, "")


def test_after_too_many_worthless_tokens_no_other_one_is_looked_at_for_a_while() -> None:
    clock = Clock()
    found = made(clock, failures="10/minute")
    for _ in range(10):
        found.attempted("192.0.2.1")
    clock.now += 20
    failure = refused(found.attempted, "192.0.2.1")
    assert failure
    assert failure.extra == {"retry_after": 40, "limit": "failures", "quota": 10, "window": 60}
    assert not refused(found.attempted, "192.0.2.2")
    assert not refused(found.used, "a good token")
    assert not refused(found.asked, "192.0.2.1")
    clock.now += 40
    assert not refused(found.attempted, "192.0.2.1")
    for _ in range(100):  # those that were no guesses
        found.excused("192.0.2.1")
        assert not refused(found.attempted, "192.0.2.1")
    clock.now += 60
    found.excused("192.0.2.1")  # what was counted before is forgotten already
    assert sum(not refused(found.attempted, "192.0.2.1") for _ in range(20)) == 10


def test_any_number_of_addresses_takes_a_bounded_memory_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "KEPT", 1000)
    before = threading.active_count()
    clock = Clock()
    found = made(clock, address="5/minute", failures="5/minute")
    for number in range(5000):
        found.asked(f"2001:db8:{number:x}::1")
        found.attempted(f"2001:db8:{number:x}::1")
    assert threading.active_count() == before
    for limit in (found._address, found._failures):
        assert limit
        counts = limit._counts
        assert len(counts._counts) == 1000
        clock.now += 60
        for number in range(1000):
            limit.count(f"later {number}")
        assert all(key.startswith("LIMITER/later") for key in counts._counts)
        assert counts.reset() == 1000


def test_those_who_ask_on_are_not_forgotten_for_the_sake_of_others() -> None:
    """As long as there is room; the room is for many more than ask a server in a minute."""
    found = made(address="5/hour")
    for _ in range(5):
        found.asked("192.0.2.1")
    for number in range(KEPT - 1):
        found.asked(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert refused(found.asked, "192.0.2.1")


def test_a_count_that_ended_makes_room_and_does_not_slow_one_request_down() -> None:
    clock = Clock()
    found = made(clock, address="5/minute")
    for number in range(20_000):
        found.asked(str(number))
    clock.now += 60
    began = time.perf_counter()
    found.asked("another")
    assert time.perf_counter() - began < 0.05


# ---------------------------------------------------------------------------------------------------------------- served


@pytest.fixture
def server(aiohttp_client: AiohttpClient, tmp_path: Path) -> Any:
    async def make(**values: Any) -> Any:
        return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", **values)))

    return make


async def test_an_address_that_asks_too_much_is_told_when_to_come_back(server: Any) -> None:
    api = await server(auth="tokens", rate_limit_address="2/minute", cors_origins="https://app.example")
    for _ in range(2):
        assert (await api.get("/version")).status == 200
    answer = await api.get("/version", headers={"Origin": "https://app.example"})
    problem = await problem_of(answer, 429, "too_many_requests")
    assert problem["retryable"] is True
    assert (problem["limit"], problem["quota"], problem["window"]) == ("address", 2, 60)
    assert 1 <= problem["retry_after"] <= 60
    assert answer.headers["Retry-After"] == str(problem["retry_after"])
    assert answer.headers["RateLimit-Policy"] == '"address";q=2;w=60'
    assert answer.headers["RateLimit"] == f'"address";r=0;t={problem["retry_after"]}'
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    for path in ("/livez", "/readyz"):
        assert (await api.get(path)).status == 200


async def test_behind_a_proxy_each_client_has_a_limit_of_its_own(server: Any) -> None:
    api = await server(auth="tokens", rate_limit_address="1/minute", trusted_proxies="127.0.0.1")
    for number in range(3):
        assert (await api.get("/version", headers={"X-Forwarded-For": f"198.51.100.{number}"})).status == 200
    forged = {"X-Forwarded-For": "203.0.113.9, 198.51.100.0"}
    await problem_of(await api.get("/version", headers=forged), 429, "too_many_requests")


async def test_without_tokens_there_are_no_limits(server: Any) -> None:
    api = await server(rate_limit_address="1/minute", rate_limit_token="1/minute", rate_limit_failures="1/minute")
    for _ in range(3):
        answer = await api.get("/version")
        assert (answer.status, "RateLimit" in answer.headers) == (200, False)


REFUSED = {
    b"this is no HTTP\r\n\r\n": 400,
    b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n": 501,
    b"GET /version HTTP/1.1\r\nHost: a b\r\n\r\n": 400,
    b"GET /version HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n": 417,
    b"GET /version HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n": 421,
}


def test_what_is_refused_before_anybody_asks_for_a_token_counts_too(tmp_path: Path) -> None:
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")
    with serving(shell, "--auth", "tokens", "--rate-limit-address", f"{len(REFUSED)}/hour") as server:
        for request, status in REFUSED.items():
            assert ask(server.port, request).startswith(f"HTTP/1.1 {status} ")
        for request in REFUSED:
            answer = ask(server.port, request)
            assert answer.startswith("HTTP/1.1 429 ")
            assert "\r\nRetry-After: " in answer
        livez = b"GET /livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert ask(server.port, livez).startswith("HTTP/1.1 200 ")
        assert server.stop() == 0
