"""The wheel in dist/, as a stranger gets it: in an empty environment, with nothing of this checkout in reach (`make dist`)."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

MOUNTED = """
import asyncio, signal, tempfile
import aiohttp
from aiohttp import web
from taskctl import Settings, create_app


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="of the outer application")


async def main() -> None:
    outer = web.Application()
    outer.router.add_get("/", hello)
    with tempfile.TemporaryDirectory() as folder:
        outer.add_subapp("/todo/", create_app(Settings(database_url=f"sqlite:///{folder}/tasks.db")))
        runner = web.AppRunner(outer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{base}/todo/api/v1/tasks", json={"title": "Mounted"}) as answer:
                print(answer.status, answer.headers["Location"])
            async with session.get(f"{base}/todo/docs/swagger-ui-bundle.js") as answer:
                print(answer.status, len(await answer.read()) > 1_000_000)
            async with session.get(base) as answer:
                print(await answer.text())
        await runner.cleanup()
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, len(asyncio.all_tasks()))


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that runs a program of the environment in an empty folder, and returns what it printed."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv", with_pip=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCTL_", "PYTHON", "VIRTUAL"))}
    environment["HOME"] = str(folder)

    def run(program: str, *arguments: str, text: str | None = None, code: int = 0) -> str:
        command = [str(folder / "venv" / "bin" / program), *arguments]
        ran = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        return ran.stdout if code == 0 else ran.stderr

    [wheel] = (ROOT / "dist").glob("*.whl")
    mypy = next(line for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines() if line.strip().startswith('"mypy=='))
    run("pip", "install", "--quiet", str(wheel), mypy.strip(' ",'))
    return run


def test_the_script_of_the_readme_runs_and_type_checks(run: Callable[..., str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    [(script, shown)] = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", readme, re.DOTALL)
    assert run("python", "-", text=script) == shown
    assert run("mypy", "--strict", "-c", script).startswith("Success")


def test_the_application_answers_under_a_prefix_and_leaves_the_outer_one_alone(run: Callable[..., str]) -> None:
    assert run("python", "-", text=MOUNTED) == "201 /todo/api/v1/tasks/1\n200 True\nof the outer application\nTrue 1\n"


def test_dashboards_and_rules_are_there(run: Callable[..., str]) -> None:
    for what, folder in (("dashboards", "grafana/dashboards"), ("rules", "prometheus/rules")):
        files = [Path(line) for line in run("taskctl", "metrics", what, "--out", "written").splitlines()]
        assert sorted(file.name for file in files) == sorted(file.name for file in (ROOT / "contrib" / folder).iterdir())
        shown = (run("python", "-c", f"print(open({str(file)!r}, encoding='utf-8').read(), end='')") for file in files)
        assert list(shown) == [(ROOT / "contrib" / folder / file.name).read_text("utf-8") for file in files]


def test_what_needs_an_extra_names_it(run: Callable[..., str]) -> None:
    said = run("taskctl", "serve", "--tracing", code=2)
    assert re.fullmatch(
        r"taskctl: tracing needs more than is installed: pip install 'taskctl\[otel\]' \(there is no \S+\)\n", said
    )


def test_the_command_and_its_migrations_are_there(run: Callable[..., str]) -> None:
    assert run("taskctl", "db", "upgrade").startswith("the schema was empty, and is ")
    assert run("taskctl", "task", "add", "From", "the", "wheel") == "added 1  From the wheel\n"
    assert f"python{sys.version_info[0]}" in run("python", "-c", "import taskctl; print(taskctl.__file__)")
