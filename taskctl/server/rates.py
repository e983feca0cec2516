"""How much may be asked for in a time: by one token, from one address, and with worthless tokens. Each process counts for itself.

`limits` understands the settings and decides; where it keeps its counts is ours. Its own memory starts a thread every 10 ms under
load, and grows with the addresses that ask.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from math import ceil
from typing import Final

from limits import parse
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from taskctl.errors import TooManyRequests

KEPT: Final = 32_768
"""Of how many tokens or addresses the requests are counted at a time: 9 MB. Beyond that the oldest counts are forgotten, which
gains an attacker nothing: whoever has so many addresses has as many first attempts."""

Clock = Callable[[], float]


class Counts(Storage):
    """Counts that end a fixed time after they began; one limit's, so they end in the order in which they began."""

    STORAGE_SCHEME = None
    base_exceptions = ()

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self._clock()
        count, ends = self._counts.get(key, (0, now))
        if ends > now:
            self._counts[key] = count + amount, ends
            return count + amount
        self._counts.pop(key, None)
        for _ in range(2):  # of those that have ended; so there are soon none, and no request waits for all of them
            if self._counts and (len(self._counts) >= KEPT or next(iter(self._counts.values()))[1] <= now):
                self._counts.popitem(last=False)
        self._counts[key] = amount, now + expiry
        return amount

    def get(self, key: str) -> int:
        count, ends = self._counts.get(key, (0, 0.0))
        return count if ends > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        return self._counts[key][1] if key in self._counts else self._clock()

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        number = len(self._counts)
        self._counts.clear()
        return number

    def clear(self, key: str) -> None:
        self._counts.pop(key, None)


class _Limit:
    """One limit, as it is set. does: what is counted, for whoever is told of it."""

    def __init__(self, name: str, does: str, said: str, clock: Clock) -> None:
        self._name, self._does, self._clock = name, does, clock
        self._item = parse(said)
        self._counts = Counts(clock)
        self._limiter = FixedWindowRateLimiter(self._counts)
        self._policy = f'"{name}";q={self._item.amount};w={self._item.get_expiry()}'

    def count(self, who: str) -> bool:
        """Count one more, and return whether it is within the limit."""
        return self._limiter.hit(self._item, who)

    def take_back(self, who: str) -> None:
        """Count one less, if the time in which it was counted has not ended."""
        if self._counts.get(self._item.key_for(who)) > 0:
            self._counts.incr(self._item.key_for(who), self._item.get_expiry(), -1)

    def refusal(self, who: str) -> TooManyRequests:
        """Return the failure of one that is too many."""
        seconds = self._left(who)[1]
        return TooManyRequests(
            f"{self._does} {self._item.amount} times in {self._item.get_expiry()} seconds, and no more for another {seconds}",
            retry_after=seconds,
            limit=self._name,
            quota=self._item.amount,
            window=self._item.get_expiry(),
        )

    def headers(self, who: str) -> dict[str, str]:
        """Return what an answer says of it (draft-ietf-httpapi-ratelimit-headers)."""
        left, seconds = self._left(who)
        return {"RateLimit-Policy": self._policy, "RateLimit": f'"{self._name}";r={left};t={seconds}'}

    def _left(self, who: str) -> tuple[int, int]:
        """Return how many more there may be, and in how many seconds there may be all of them again."""
        key = self._item.key_for(who)  # once; the limiter's own statistics make it twice, on the path of every request
        left = self._item.amount - self._counts.get(key)
        return max(0, left), max(1, ceil(self._counts.get_expiry(key) - self._clock()))


class Rates:
    """The limits of a server that wants tokens.

    token, address, failures: each as `limits` reads it ("6000/minute", "100/10 seconds"), "" or "off" for none. Addresses are
    those of `Doors.address_of`; of IPv6, all of one /64 count as one, because nobody who has any gets less.

    `asked` comes first for every request. Then whoever admits it: a token that was good when it was last looked at, however long
    ago, is looked at again without further ado; any other is `attempted` before, and `excused` if it turned out to be no guess.
    So somebody who guesses is soon not even looked at, and costs no query, while the good tokens in use behind the same address
    go on. `used` follows for a good one.
    """

    def __init__(self, *, token: str, address: str, failures: str, clock: Clock = time.monotonic) -> None:
        def limit(name: str, does: str, said: str) -> _Limit | None:
            return None if said in ("", "off") else _Limit(name, does, said, clock)

        self._token = limit("token", "this token may ask", token)
        self._address = limit("address", "this address may ask", address)
        self._failures = limit("failures", "this address may show a worthless token", failures)

    def asked(self, address: str) -> None:
        """Count a request from an address. Raises TooManyRequests if it is one too many."""
        if self._address is not None:
            who = _network(address)
            if not self._address.count(who):
                raise self._address.refusal(who)

    def used(self, token: str) -> Mapping[str, str]:
        """Count a request with a good token, by its id, and return the headers that tell how many more there may be.

        Raises TooManyRequests if it is one too many.
        """
        if self._token is None:
            return {}
        if not self._token.count(token):
            raise self._token.refusal(token)
        return self._token.headers(token)

    def attempted(self, address: str) -> None:
        """Count a token from an address that is not known to be good, before it is looked at: many may be at once.

        Raises TooManyRequests if there were too many.
        """
        if self._failures is not None:
            who = _network(address)
            if not self._failures.count(who):
                raise self._failures.refusal(who)

    def excused(self, address: str) -> None:
        """Take back what `attempted` has counted: whoever has shown it had not guessed it."""
        if self._failures is not None:
            self._failures.take_back(_network(address))


def _network(address: str) -> str:
    return f"{int(IPv6Address(address)) >> 64:x}" if ":" in address else address
