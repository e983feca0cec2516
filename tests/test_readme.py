"""What README.md shows is what happens: its sessions are run word for word, its script runs and type-checks.

`UPDATE_README=1 python -m pytest tests/test_readme.py` writes what happened into README.md instead; read the difference.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
UPDATE = bool(os.environ.get("UPDATE_README"))
BIN = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment with a home of its own, in which `taskctl` is the one under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCTL_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "TZ": "UTC"}


@pytest.fixture
def port(place: dict[str, str]) -> Iterator[int]:
    """A server on the task file of that home."""
    process = subprocess.Popen(["taskctl", "serve", "--port", "0"], env=place, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())
    assert found
    yield int(found[1])
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def replay(session: str, environment: dict[str, str], port: int) -> str:
    """Run the commands behind each `$ ` in one shell, and return the session as it was on the screen."""
    commands = re.findall(r"^\$ (.*)$", session, re.MULTILINE)
    steps = []
    for command in commands:  # what is shown before a command must not be what its `$?` is about
        steps += ["code=$?", f"printf '%s\\n' {shlex.quote('$ ' + command)}", "(exit $code)"]
        steps.append(command.replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
    script = "\n".join(steps)
    ran = subprocess.run(
        ["bash", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return ran.stdout


def check(shown: str, happened: str) -> None:
    if UPDATE and shown != happened:
        README.write_text(README.read_text("utf-8").replace(shown, happened), "utf-8")
    else:
        assert happened == shown


def test_the_sessions_print_what_they_show(place: dict[str, str], port: int) -> None:
    sessions = blocks("console")
    assert len(sessions) == 2
    for session in sessions:
        check(session, replay(session, place, port))


def test_the_script_prints_what_it_shows_and_type_checks(place: dict[str, str], tmp_path: Path) -> None:
    [script] = blocks("python")
    [shown] = blocks("text")
    path = tmp_path / "script.py"
    path.write_text(script, "utf-8")
    ran = subprocess.run([sys.executable, path], env=place, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    check(f"```text\n{shown}```", f"```text\n{ran.stdout}```")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(path)]
    typed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert typed.stdout.startswith("Success"), typed.stdout
