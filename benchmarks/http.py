"""How the server does over HTTP, next to any others that speak the same few requests.

    python -m benchmarks.http [ROUNDS] [SCENARIO...] [NAME=URL...]

It starts a PostgreSQL with fsync on and a `taskctl serve` on it, pinned to the first core, fills both, and has wrk (which must be
installed) load it and the servers at the other URLs in turn, A B A B, from the second core. Every one of them has the tasks
1 to 20000, and answers a GET, a POST and a PATCH at `/api/v1/tasks` as taskctl does.
Printed are the medians of the requests per second and of the 99th percentile, and taskctl's ratio to each. A run with an answer
that is no success fails.

hot: 64 tasks again and again; cold: any of all; list: the first 50; add: POST; edit: PATCH of title and priority; mix: of 100
requests 85 of hot, 5 of each of the others.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.postgres import Cluster
from tests.support import Shell, serving

CONNECTIONS = 64
SECONDS = 4
TASKS = 20_000
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


def main(arguments: Sequence[str]) -> None:
    """Start what is needed, measure, and print."""
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        raise SystemExit("wrk and taskset are needed; Debian's packages are wrk and util-linux")
    rounds = next((int(argument) for argument in arguments if argument.isdigit()), 3)
    others = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    scenarios = [argument for argument in arguments if argument in SCENARIOS] or list(SCENARIOS)
    cluster = Cluster("fsync=on", "shared_buffers=256MB", "max_wal_size=2GB")
    try:
        with TemporaryDirectory() as home:
            shell = Shell(Path(home), TASKCTL_DATABASE_URL=cluster.tasks())
            seeded = shell("db", "seed", "--count", str(TASKS))
            if seeded.code:
                raise SystemExit(seeded.err)
            with serving(shell) as server:
                os.sched_setaffinity(server.process.pid, {0})
                servers = {"taskctl": server.url, **others}
                print(f"{f'medians of {rounds}':<14}" + "".join(f"{name:>10}{'p99 ms':>8}{'x':>7}" for name in servers))
                for scenario, found in measured(servers, scenarios, rounds):
                    rates = {name: statistics.median(one.rate for one in ones) for name, ones in found.items()}
                    lates = {name: statistics.median(one.late for one in ones) for name, ones in found.items()}
                    cells = [f"{rates[n]:>10.0f}{lates[n]:>8.1f}{rates['taskctl'] / rates[n]:>7.2f}" for n in servers]
                    print(f"{scenario:<14}" + "".join(cells), flush=True)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1:])
