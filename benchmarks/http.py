"""How the server does over HTTP, next to any others that speak the same few requests.

    python -m benchmarks.http [ROUNDS] [SCENARIO...] [NAME=URL...] [NAME=COMMAND...]

It starts a PostgreSQL with fsync on, a Redis, and a `taskctl serve` on both, pinned to the first core, fills it, and has wrk
(which must be installed) load it and the others in turn, A B A B, from the second core. Others are at a URL, or are started by a
command, pinned in the same way: it finds DATABASE_URL (an empty database on the same PostgreSQL), REDIS_URL (the same Redis,
another number in it) and PORT in its environment, and is waited for until it has all tasks. Every one of them has the tasks 1 to
100000, and answers a GET, a POST and a PATCH at `/api/v1/tasks` as taskctl does.

Printed are the medians of the requests per second and of the 99th percentile, and taskctl's ratio to each; at the end what
taskctl remembers, and how much memory its process takes. A run with an answer that is no success fails.

hot: 64 tasks again and again; cold: any of all; list: the first 50; add: POST; edit: PATCH of title and priority; mix: of 100
requests 85 of hot, 5 of each of the others.
"""

import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.request import urlopen

from tests.postgres import Cluster, ask, free_port
from tests.redis import Server as RedisServer
from tests.support import Server, Shell

CONNECTIONS = 64
SECONDS = 4
TASKS = 100_000
READY_SECONDS = 120
SCENARIOS = ("hot", "cold", "list", "add", "edit", "mix")

SCRIPT = """
local tasks, scenario, seed = %(tasks)d, "%(scenario)s", %(seed)d
local json = {["Content-Type"] = "application/json"}
local at = "/api/v1/tasks"
local priorities = {"low", "medium", "high", "urgent"}
math.randomseed(seed)

local make = {
  hot = function() return wrk.format("GET", at .. "/" .. (math.random(64) * 7)) end,
  cold = function() return wrk.format("GET", at .. "/" .. math.random(tasks)) end,
  list = function() return wrk.format("GET", at .. "?limit=50") end,
  add = function(n)
    return wrk.format("POST", at, json, string.format(
      '{"title": "Load number %%d", "description": "Sent by the benchmark", "priority": "%%s", "labels": ["bench", "load"]}',
      n, priorities[1 + n %% 4]))
  end,
  edit = function(n)
    return wrk.format("PATCH", at .. "/" .. math.random(tasks), json, string.format(
      '{"title": "Load number %%d, edited", "priority": "%%s"}', n, priorities[1 + n %% 4]))
  end,
}
local shares = {{"hot", 85}, {"list", 90}, {"add", 95}, {"edit", 100}}
make.mix = function(n)
  local x = math.random(100)
  for _, share in ipairs(shares) do
    if x <= share[2] then return make[share[1]](n) end
  end
end

local requests, sent = {}, 0
function init()
  for n = 1, 20000 do requests[n] = make[scenario](n) end
end
function request()
  sent = sent + 1
  return requests[1 + sent %% #requests]
end
function done(summary, latency)
  local failed = summary.errors
  io.write(string.format("RESULT %%f %%f %%d\\n", summary.requests / summary.duration * 1e6, latency:percentile(99) / 1000,
    failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
"""


class Measured(NamedTuple):
    """Requests per second, and the milliseconds within which 99 of 100 were answered."""

    rate: float
    late: float


def load(url: str, scenario: str, seed: int, folder: Path) -> Measured:
    """Have wrk load a server for a while."""
    script = folder / f"{scenario}.lua"
    script.write_text(SCRIPT % {"tasks": TASKS, "scenario": scenario, "seed": seed})
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script), url]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"RESULT (\S+) (\S+) (\d+)", ran.stdout)
    if found is None or found[3] != "0":
        raise SystemExit(f"{scenario} at {url} went wrong:\n{ran.stdout}{ran.stderr}")
    return Measured(float(found[1]), float(found[2]))


def measured(servers: dict[str, str], scenarios: Sequence[str], rounds: int) -> Iterator[tuple[str, dict[str, list[Measured]]]]:
    """Measure each scenario on the servers in turn, and yield what was found."""
    with TemporaryDirectory() as folder:
        for scenario in scenarios:
            found: dict[str, list[Measured]] = {name: [] for name in servers}
            for number in range(rounds):
                names = list(servers) if number % 2 == 0 else list(reversed(servers))
                for name in names:
                    found[name].append(load(servers[name], scenario, number, Path(folder)))
            yield scenario, found


@contextmanager
def started(name: str, command: str, postgres: Cluster, redis: RedisServer, number: int) -> Iterator[str]:
    """Run another server, and yield its address once it has all tasks."""
    port = free_port()
    ask(postgres.url(), f"CREATE DATABASE bench_{number}")
    environment = {
        **os.environ,
        "DATABASE_URL": postgres.url(f"bench_{number}"),
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/{number}",
        "PORT": str(port),
    }
    with Popen(["taskset", "-c", "0", *shlex.split(command)], env=environment, start_new_session=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + READY_SECONDS
            while not answers(f"{url}/api/v1/tasks/{TASKS}"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} does not have {TASKS} tasks at {url}")
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    """Return whether there is a good answer."""
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def main(arguments: Sequence[str]) -> None:
    """Start what is needed, measure, and print."""
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        raise SystemExit("wrk and taskset are needed; Debian's packages are wrk and util-linux")
    rounds = next((int(argument) for argument in arguments if argument.isdigit()), 3)
    others = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    scenarios = [argument for argument in arguments if argument in SCENARIOS] or list(SCENARIOS)
    with ExitStack() as stack:
        postgres = Cluster("fsync=on", "shared_buffers=256MB", "max_wal_size=2GB")
        stack.callback(postgres.close)
        redis = stack.enter_context(RedisServer())
        home = Path(stack.enter_context(TemporaryDirectory()))
        tasks = postgres.tasks()
        shell = Shell(home, TASKCTL_DATABASE_URL=tasks, TASKCTL_REDIS_URL=redis.url)
        seeded = shell("db", "seed", "--count", str(TASKS), seconds=READY_SECONDS)
        if seeded.code:
            raise SystemExit(seeded.err)
        ask(tasks, "VACUUM ANALYZE")
        servers = {"taskctl": f"http://127.0.0.1:{(port := free_port())}"}
        process = stack.enter_context(Server(shell, "--quiet", "--port", str(port))).process  # none of them writes a log
        while not answers(f"{servers['taskctl']}/readyz"):
            time.sleep(0.1)
        os.sched_setaffinity(process.pid, {0})
        for number, (name, place) in enumerate(others.items(), start=1):
            url = place.startswith("http")
            servers[name] = place if url else stack.enter_context(started(name, place, postgres, redis, number))
        print(f"{f'medians of {rounds}':<14}" + "".join(f"{name:>10}{'p99 ms':>8}{'x':>7}" for name in servers))
        for scenario, found in measured(servers, scenarios, rounds):
            rates = {name: statistics.median(one.rate for one in ones) for name, ones in found.items()}
            lates = {name: statistics.median(one.late for one in ones) for name, ones in found.items()}
            cells = [f"{rates[n]:>10.0f}{lates[n]:>8.1f}{rates['taskctl'] / rates[n]:>7.2f}" for n in servers]
            print(f"{scenario:<14}" + "".join(cells), flush=True)
        with urlopen(f"{servers['taskctl']}/api/v1/cache") as answer:
            cache = json.load(answer)
        asked, hits = sum(cache["asked"].values()), cache["asked"].get("memory", 0)
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) // 1024
        print(f"answered from memory: {hits / asked:.1%} of {asked}; from Redis: {cache['asked'].get('redis', 0) / asked:.1%}")
        print(f"remembered: {cache['entries']} answers in {cache['bytes'] / 2**20:.1f} MiB; the process takes {resident} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
