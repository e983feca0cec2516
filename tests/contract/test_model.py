"""A TaskService beside a dict: after any writes both hold the same, and replaying the log gives it again."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from taskctl import (
    Add,
    Changeset,
    Conflict,
    Edit,
    NewTask,
    Remove,
    StaleTask,
    Task,
    TaskctlError,
    TaskNotFound,
    TaskPatch,
    TaskQuery,
    TaskService,
)
from taskctl.tasks import Operation, Ref
from tests.contract.stacks import STACKS, Stack
from tests.contract.told import told
from tests.strategies import examples, new_tasks, patches

UIDS = [UUID(int=n) for n in range(1, 5)]
REFS: st.SearchStrategy[Ref] = st.integers(1, 8) | st.sampled_from(UIDS)
VERSIONS = st.none() | st.integers(1, 3)

NEW = st.tuples(new_tasks, st.none() | st.sampled_from(UIDS)).map(lambda pair: msgspec.structs.replace(pair[0], uid=pair[1]))
OPERATIONS: st.SearchStrategy[Operation] = (
    NEW.map(Add) | st.builds(Edit, REFS, patches, VERSIONS) | st.builds(Remove, REFS, VERSIONS)
)

TRANSITIONS = {
    "todo": {"in_progress", "done", "cancelled"},
    "in_progress": {"todo", "done", "cancelled"},
    "done": {"todo"},
    "cancelled": {"todo"},
}


class Model:
    """What the contract says, as simply as it can be said: tasks are dicts of JSON values."""

    def __init__(self) -> None:
        self.tasks: dict[int, dict[str, Any]] = {}
        self.next_id = 1
        self.seq = 0

    def copy(self) -> "Model":
        twin = Model()
        twin.tasks = {id: dict(task) for id, task in self.tasks.items()}
        twin.next_id, twin.seq = self.next_id, self.seq
        return twin

    def run(self, operation: Operation) -> dict[str, Any] | None | type[TaskctlError]:
        """Return the task's writable fields, version and id after the operation, None if removed, or how it fails."""
        match operation:
            case Add(new):
                if new.uid is not None and any(task["uid"] == str(new.uid) for task in self.tasks.values()):
                    return Conflict
                task = {**plain(new), "version": 1, "id": self.next_id, "uid": new.uid and str(new.uid)}
                self.tasks[self.next_id] = task
                self.next_id += 1
            case Edit(ref, patch, version):
                found = self.find(ref, version)
                if isinstance(found, type):
                    return found
                changes = {name: value for name, value in plain(patch).items() if found[name] != value}
                if "status" in changes and changes["status"] not in TRANSITIONS[found["status"]]:
                    return Conflict
                if not changes:
                    return dict(found)
                task = found
                task.update(changes, version=found["version"] + 1)
            case Remove(ref, version):
                found = self.find(ref, version)
                if isinstance(found, type):
                    return found
                del self.tasks[found["id"]]
                self.seq += 1
                return None
            case _:
                raise AssertionError(operation)
        self.seq += 1
        return dict(task)

    def find(self, ref: Ref, version: int | tuple[int, ...] | None) -> dict[str, Any] | type[TaskctlError]:
        for task in self.tasks.values():
            if ref == task["id"] or str(ref) == task["uid"]:
                return task if version in (None, task["version"]) else StaleTask
        return TaskNotFound


def plain(value: NewTask | TaskPatch | Task) -> dict[str, Any]:
    """Return the members as JSON has them."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


class Machine(RuleBasedStateMachine):
    """One service and one model, given the same writes."""

    stack: Stack

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.Runner()
        self.opened = AsyncExitStack()
        self.tasks: TaskService = self.loop.run(self.opened.enter_async_context(self.stack.open(self.folder)))

    def teardown(self) -> None:
        try:
            self.loop.run(self.replay())
        finally:
            self.loop.run(self.opened.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)

    @initialize(new=st.lists(NEW, max_size=3))
    def begin(self, new: list[NewTask]) -> None:
        for task in new:
            self.one(Add(task))

    @rule(operation=OPERATIONS, dry_run=st.sampled_from([False, False, False, True]))
    def write_one(self, operation: Operation, dry_run: bool) -> None:
        self.one(operation, dry_run)

    def one(self, operation: Operation, dry_run: bool = False) -> None:
        model = self.model.copy() if dry_run else self.model
        expected = model.run(operation)
        try:
            match operation:
                case Add(new):
                    result: Task | None = self.loop.run(self.tasks.add(new, dry_run=dry_run))
                case Edit(id, patch, None | int() as version):
                    result = self.loop.run(self.tasks.edit(id, patch, if_version=version, dry_run=dry_run))
                case Remove(id, None | int() as version):
                    result = self.loop.run(self.tasks.remove(id, if_version=version, dry_run=dry_run))
        except TaskctlError as e:
            assert type(e) is expected
            return
        self.same(result, expected, model)

    @rule(operations=st.lists(OPERATIONS, min_size=1, max_size=6), atomic=st.booleans(), dry_run=st.booleans())
    def write_many(self, operations: list[Operation], atomic: bool, dry_run: bool) -> None:
        model = self.model.copy()
        expected = [model.run(operation) for operation in operations]
        failing = [index for index, result in enumerate(expected) if isinstance(result, type)]
        changes = Changeset(tuple(operations), atomic=atomic, dry_run=dry_run)
        if atomic and failing:
            with pytest.raises(TaskctlError) as caught:
                self.loop.run(self.tasks.write(changes))
            failure, _, extra = told(caught.value)
            assert (failure, extra["index"]) == (expected[failing[0]], failing[0])
            return
        written = self.loop.run(self.tasks.write(changes))
        assert written.seq == (self.model if dry_run else model).seq
        for result, one in zip(written.results, expected, strict=True):
            if isinstance(result, TaskctlError):
                assert type(result) is one
            else:
                self.same(result, one, model)
        if not dry_run:
            self.model = model

    def same(self, result: Task | None, expected: object, model: Model) -> None:
        """See that a result is the expected one; a uid that the service made is new to the model."""
        if result is None or expected is None:
            assert result is expected
            return
        assert isinstance(expected, dict)
        seen = plain(result)
        if expected["uid"] is None:
            assert result.uid not in UIDS
            if result.id in model.tasks:
                model.tasks[result.id]["uid"] = seen["uid"]
            expected = {**expected, "uid": seen["uid"]}
        assert {name: seen[name] for name in expected} == expected

    @invariant()
    def both_hold_the_same(self) -> None:
        listed = self.loop.run(self.tasks.list(TaskQuery(limit=None, sort=("id",)))).items
        assert [task.id for task in listed] == sorted(self.model.tasks)
        for task in listed:
            self.same(task, self.model.tasks[task.id], self.model)
            assert (task.completed_at is not None) == (task.status == "done")
        assert self.loop.run(self.tasks.changes(self.model.seq)).items == ()

    async def replay(self) -> None:
        """See that the log alone gives the state: what an offline copy would do with it."""
        copy: dict[int, dict[str, Any]] = {}
        seq = 0
        while True:
            changes = await self.tasks.changes(seq, limit=7)
            for entry in changes.items:
                seq += 1
                assert entry.seq == seq
                match entry.op:
                    case "add":
                        assert entry.id not in copy
                        assert entry.before is None
                        copy[entry.id] = dict(entry.after or {})
                    case "edit":
                        task = copy[entry.id]
                        assert entry.before == {name: task[name] for name in entry.after or {}}
                        assert entry.before != entry.after
                        at = entry.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
                        task.update(entry.after or {}, version=entry.version, updated_at=at)
                    case "remove":
                        assert copy.pop(entry.id) == entry.before
                        assert entry.after is None
            assert changes.next == seq
            if not changes.more:
                break
        listed = (await self.tasks.list(TaskQuery(limit=None))).items
        assert copy == {task.id: plain(task) for task in listed}
        assert all(isinstance(task.updated_at, datetime) for task in listed)


@pytest.mark.parametrize("name", STACKS)
def test_a_service_holds_what_the_model_holds(name: str) -> None:
    machine = type(name, (Machine,), {"stack": STACKS[name]})
    run_state_machine_as_test(machine, settings=examples(0.35))
