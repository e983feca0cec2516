"""A client that a stranger generates from `/openapi.json` type-checks, and works on a real server.

The generator and the client have an environment of their own (see tools.txt), which `make test` makes. Without it these tests
are skipped, but not where `CI` is set.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support import SECONDS, Server, Shell, serving

BIN = Path(sys.prefix) / "tools" / "bin"

pytestmark = pytest.mark.skipif(
    not BIN.exists() and not os.environ.get("CI"), reason="the environment of the generator is not there (make test makes it)"
)

PROGRAM = """
import sys
from datetime import date, datetime, timezone
from typing import TypeVar

from client import AuthenticatedClient
from client.api.tasks import add_task, edit_task, get_task, list_tasks, remove_task, replace_task, write_batch
from client.models import AddOperation, Batch, BatchAnswer, NewTask, Priority, Problem, RemoveOperation, Status, Task, TaskPage
from client.models import TaskPatch, TaskReplacement

T = TypeVar("T")


def a(kind: type[T], value: object) -> T:
    assert isinstance(value, kind), value
    return value


client = AuthenticatedClient(sys.argv[1], token=sys.argv[2])

added = add_task.sync_detailed(client=client, body=NewTask(title="Buy milk", labels=["errand"], due=date(2026, 12, 1)))
task = a(Task, added.parsed)
assert (added.status_code, added.headers["ETag"], added.headers["Location"]) == (201, '"1"', f"/api/v1/tasks/{task.id}")
assert (task.title, task.status, task.labels, task.due) == ("Buy milk", Status.TODO, ["errand"], date(2026, 12, 1))

instant = datetime(2026, 12, 1, 15, tzinfo=timezone.utc)
other = a(Task, add_task.sync(client=client, body=NewTask(title="Call", due=instant, priority=Priority.HIGH)))
assert other.due == instant
page = a(TaskPage, list_tasks.sync(client=client, status=[Status.TODO], sort="due", limit=1, prefer="count=exact"))
assert ([one.title for one in page.items], page.total) == (["Call"], 2)
rest = a(TaskPage, list_tasks.sync(client=client, status=[Status.TODO], sort="due", limit=1, cursor=str(page.next_cursor)))
assert ([one.title for one in rest.items], rest.next_cursor) == (["Buy milk"], None)

edited = edit_task.sync_detailed(task.id, client=client, body=TaskPatch(status=Status.DONE), if_match=added.headers["ETag"])
assert (a(Task, edited.parsed).version, edited.headers["ETag"]) == (2, '"2"')
stale = edit_task.sync_detailed(task.id, client=client, body=TaskPatch(title="x"), if_match=added.headers["ETag"])
problem = a(Problem, stale.parsed)
assert (stale.status_code, problem.code.value, problem.current_version) == (412, "stale_task", 2)
seen = get_task.sync_detailed(task.uid, client=client, if_none_match=edited.headers["ETag"])
assert (seen.status_code, seen.parsed) == (304, None)

whole = a(Task, get_task.sync(other.id, client=client))
replacement = TaskReplacement("Call back", None, whole.status, whole.priority, whole.project, whole.labels, whole.due)
assert a(Task, replace_task.sync(other.id, client=client, body=replacement)).due == instant
wrong = a(Problem, add_task.sync(client=client, body=NewTask(title="")))
assert isinstance(wrong.errors, list) and wrong.errors[0].pointer == "/title"

batch = Batch(operations=[AddOperation(op="add", task=NewTask(title="Buy bread")), RemoveOperation(op="remove", id=other.id)])
written = a(BatchAnswer, write_batch.sync(client=client, body=batch))
assert [result.status for result in written.results] == [201, 204]
assert remove_task.sync_detailed(task.id, client=client).status_code == 204
assert a(Problem, get_task.sync(task.id, client=client)).code.value == "task_not_found"
print("done")
"""


def run(*command: str | Path, folder: Path) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db"), "--auth", "tokens") as server:
        yield server


def test_it_type_checks_and_adds_lists_edits_and_removes(server: Server, tmp_path: Path) -> None:
    token = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")(
        "token", "create", "g", "--scope", "tasks:write"
    )
    assert BIN.exists(), "the environment of the generator is not there, and CI is set"
    with urlopen(f"{server.url}/openapi.json", timeout=SECONDS) as answer:
        (tmp_path / "openapi.json").write_bytes(answer.read())
    (tmp_path / "options.json").write_text(json.dumps({"post_hooks": []}))
    (tmp_path / "program.py").write_text(PROGRAM)
    options = ("--config", "options.json", "--meta", "none", "--output-path", "client", "--fail-on-warning")
    run(BIN / "openapi-python-client", "generate", "--path", "openapi.json", *options, folder=tmp_path)
    strictly = ("--strict", "--config-file=", "--cache-dir", ".mypy_cache", "--python-executable", BIN / "python")
    run(sys.executable, "-m", "mypy", *strictly, "program.py", "client", folder=tmp_path)
    assert run(BIN / "python", "program.py", server.url, token.out.strip(), folder=tmp_path) == "done\n"
