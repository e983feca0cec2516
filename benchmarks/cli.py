"""How long a command takes, next to a Typer app with one argument and to bare Python.

    python -m benchmarks.cli [ROUNDS]

Each round runs every command once, in turn, so that whatever else the machine does meets all of them alike. Printed are the
medians, and their ratios to the Typer app and to `python -c pass`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPER = """
import typer

def main(name: str) -> None:
    print(name)

typer.run(main)
"""
TASKS = 1_000
REFERENCES = ("typer app", "bare python")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory(prefix="taskctl-bench-") as folder:
        app = Path(folder, "app.py")
        app.write_text(TYPER)
        environment = {**os.environ, "XDG_CONFIG_HOME": folder, "TASKCTL_DATABASE_URL": f"sqlite:///{folder}/add.db"}
        listed = {**environment, "TASKCTL_DATABASE_URL": f"sqlite:///{folder}/list.db"}
        taskctl = [sys.executable, "-m", "taskctl"]
        _fill(taskctl, listed)
        commands = {
            "bare python": ([sys.executable, "-c", "pass"], environment),
            "typer app": ([sys.executable, str(app), "x"], environment),
            "task add": ([*taskctl, "task", "add", "Buy milk"], environment),
            f"task list of {TASKS}": ([*taskctl, "task", "list"], listed),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, (command, variables) in commands.items():
                started = time.perf_counter()
                subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE)
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'medians of ' + str(rounds):<20} {'ms':>8} {'x typer app':>12} {'x bare python':>14}")
    for name, median in medians.items():
        typer, bare = (median / medians[reference] for reference in REFERENCES)
        print(f"{name:<20} {median * 1000:>8.1f} {typer:>12.2f} {bare:>14.2f}")


def _fill(taskctl: list[str], environment: dict[str, str]) -> None:
    """Make a database with exactly as many open tasks as the list is to have."""
    titles = "\n".join(f"Task number {n} of the list" for n in range(TASKS))
    code = (
        "import sys\n"
        "from taskctl import wiring, config\n"
        "from taskctl.tasks import Add, Changeset, NewTask\n"
        "async def add(tasks):\n"
        "    new = [Add(NewTask(title=line.strip(), priority='high', due='2026-12-01', labels=['a'])) for line in sys.stdin]\n"
        "    for start in range(0, len(new), 500):\n"
        "        await tasks.write(Changeset(tuple(new[start:start + 500])))\n"
        "wiring.run_command(add, config.load({}), actor=None)\n"
    )
    subprocess.run([taskctl[0], "-c", code], input=titles, text=True, env=environment, check=True)
    count = subprocess.run([*taskctl, "task", "list", "-o", "ids"], env=environment, check=True, stdout=subprocess.PIPE)
    assert len(count.stdout.split()) == TASKS


if __name__ == "__main__":
    main()
