"""Many operations at once: all or nothing, or each for itself; what they see of each other; and dry runs."""

from uuid import UUID, uuid4

import pytest

from taskctl import (
    Add,
    Changeset,
    Conflict,
    Edit,
    InvalidRequest,
    InvalidTask,
    NewTask,
    Remove,
    StaleTask,
    Task,
    TaskNotFound,
    TaskPatch,
    TaskService,
)
from taskctl.errors import FieldError
from taskctl.tasks import Operation
from tests.contract.told import Told, failure_of, told


def adding(*titles: str) -> tuple[Add, ...]:
    return tuple(Add(NewTask(title=title)) for title in titles)


async def everything(tasks: TaskService) -> tuple[object, ...]:
    """Return all that a failed or dry write must leave as it was."""
    return (await tasks.list()).items, await tasks.changes(), await tasks.projects(), await tasks.labels()


async def test_a_batch_is_one_changeset(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a"))
    await tasks.add(NewTask(title="b"))
    operations: tuple[Operation, ...] = (
        Edit(1, TaskPatch(title="A")),
        Remove(2),
        *adding("c"),
        Edit(1, TaskPatch(priority="low"), if_version=2),
    )
    written = await tasks.write(Changeset(operations, message="tidied up"))
    assert written.seq == 6
    first, gone, added, second = written.results
    assert isinstance(first, Task)
    assert isinstance(added, Task)
    assert isinstance(second, Task)
    assert (first.title, first.version) == ("A", 2)
    assert gone is None
    assert (added.id, added.title) == (3, "c")
    assert (second.title, second.priority, second.version) == ("A", "low", 3)
    assert (await tasks.list()).items == (added, second)

    log = (await tasks.changes(since=2)).items
    assert {entry.changeset for entry in log} == {written.changeset}
    assert {entry.message for entry in log} == {"tidied up"}
    assert {entry.at for entry in log} == {second.updated_at}
    assert [(e.seq, e.op, e.id, e.version) for e in log] == [
        (3, "edit", 1, 2),
        (4, "remove", 2, 2),
        (5, "add", 3, 1),
        (6, "edit", 1, 3),
    ]


async def test_changesets_have_ids_of_their_own(tasks: TaskService) -> None:
    first = await tasks.write(Changeset(adding("a")))
    second = await tasks.write(Changeset(adding("b")))
    assert isinstance(first.changeset, UUID)
    assert first.changeset != second.changeset
    assert [entry.changeset for entry in (await tasks.changes()).items] == [first.changeset, second.changeset]


async def test_a_batch_of_500_is_written(tasks: TaskService) -> None:
    written = await tasks.write(Changeset(adding(*map(str, range(500)))))
    assert [result.id for result in written.results if isinstance(result, Task)] == list(range(1, 501))
    assert written.seq == 500
    assert len((await tasks.list()).items) == 50


FAILING: list[tuple[Operation, Told]] = [
    (Edit(9, TaskPatch(title="x")), (TaskNotFound, "there is no task 9", {"id": 9})),
    (Remove(9), (TaskNotFound, "there is no task 9", {"id": 9})),
    (Edit(1, TaskPatch(title="x"), if_version=7), (StaleTask, "task 1 is at version 1, not 7", {"id": 1, "current_version": 1})),
    (Remove(1, if_version=7), (StaleTask, "task 1 is at version 1, not 7", {"id": 1, "current_version": 1})),
    (
        Add(NewTask(title="x", uid=UUID(int=5))),
        (Conflict, f"there is a task with the uid {UUID(int=5)} already", {"id": 2}),
    ),
]


@pytest.mark.parametrize(("operation", "failure"), FAILING, ids=[str(n) for n in range(len(FAILING))])
@pytest.mark.parametrize("index", [0, 2])
async def test_the_first_failure_undoes_an_atomic_batch_and_is_named_by_its_index(
    tasks: TaskService, operation: Operation, failure: Told, index: int
) -> None:
    await tasks.add(NewTask(title="a", labels=["l"], project="p"))
    await tasks.add(NewTask(title="b", uid=UUID(int=5)))
    before = await everything(tasks)
    others: list[Operation] = [*adding("c"), Edit(2, TaskPatch(title="B", labels=["new"], project="q"))]
    operations: tuple[Operation, ...] = (*others[:index], operation, *others[index:], Remove(77))
    assert await failure_of(tasks.write(Changeset(operations))) == (*failure[:2], {**failure[2], "index": index})
    assert await everything(tasks) == before
    assert (await tasks.add(NewTask(title="d"))).id == 3


async def test_an_impossible_transition_fails_an_atomic_batch(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a", status="done"))
    before = await everything(tasks)
    batch = Changeset((*adding("b"), Edit(1, TaskPatch(status="in_progress"))))
    failure, detail, extra = await failure_of(tasks.write(batch))
    assert (failure, extra["index"], extra["id"]) == (Conflict, 1, 1)
    assert detail == "task 1 is done, and from there it cannot become in_progress; reopen it first"
    assert await everything(tasks) == before


async def test_without_atomicity_failures_stand_in_their_places(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a"))
    await tasks.add(NewTask(title="b", uid=UUID(int=5)))
    operations: list[Operation] = [operation for operation, _ in FAILING]
    written = await tasks.write(Changeset((*adding("c"), *operations, *adding("d"), Remove(1)), atomic=False))
    [c, *failures, d, gone] = written.results
    assert isinstance(c, Task)
    assert isinstance(d, Task)
    assert gone is None
    assert [told(result) for result in failures] == [failure for _, failure in FAILING]
    assert [(task.id, task.title) for task in (await tasks.list()).items] == [(4, "d"), (3, "c"), (2, "b")]
    assert (c.id, d.id, written.seq) == (3, 4, 5)
    assert {entry.changeset for entry in (await tasks.changes(since=2)).items} == {written.changeset}


async def test_a_batch_that_only_fails_writes_nothing(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a"))
    before = await everything(tasks)
    written = await tasks.write(Changeset((Remove(8), Remove(9)), atomic=False))
    assert [told(result)[2] for result in written.results] == [{"id": 8}, {"id": 9}]
    assert written.seq == 1
    assert await everything(tasks) == before


async def test_an_operation_may_name_a_uid_that_was_added_earlier(tasks: TaskService) -> None:
    uid = uuid4()
    operations: tuple[Operation, ...] = (
        Add(NewTask(title="a", uid=uid)),
        Edit(uid, TaskPatch(title="b"), if_version=1),
        Edit(1, TaskPatch(title="c")),
    )
    written = await tasks.write(Changeset(operations))
    task = await tasks.get(uid)
    assert (task.id, task.title, task.version) == (1, "c", 3)
    assert written.results[-1] == task
    assert [entry.version for entry in (await tasks.history(uid)).items] == [3, 2, 1]


async def test_a_uid_is_not_known_before_it_is_added(tasks: TaskService) -> None:
    uid = uuid4()
    batch = Changeset((Edit(uid, TaskPatch(title="b")), Add(NewTask(title="a", uid=uid))))
    missing = (TaskNotFound, f"there is no task {uid}", {"id": str(uid), "index": 0})
    assert await failure_of(tasks.write(batch)) == missing


async def test_what_is_removed_is_gone_for_the_rest_of_the_batch(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a", labels=["l"]))
    batch = Changeset((Remove(1), Edit(task.uid, TaskPatch(title="b")), Remove(1)), atomic=False)
    results = (await tasks.write(batch)).results
    assert results[0] is None
    assert [told(result)[0] for result in results[1:]] == [TaskNotFound, TaskNotFound]


async def test_a_task_may_come_and_go_in_one_batch(tasks: TaskService) -> None:
    uid = uuid4()
    await tasks.write(Changeset((Add(NewTask(title="a", uid=uid, labels=["l"])), Remove(uid), *adding("b"))))
    assert [(task.id, task.title) for task in (await tasks.list()).items] == [(2, "b")]
    assert (await tasks.labels()).items == ()
    assert [(e.seq, e.op) for e in (await tasks.history(uid)).items] == [(2, "remove"), (1, "add")]


async def test_a_uid_may_change_hands_in_one_batch(tasks: TaskService) -> None:
    uid = uuid4()
    await tasks.add(NewTask(title="old", uid=uid))
    await tasks.write(Changeset((Remove(uid), Add(NewTask(title="new", uid=uid)))))
    assert (await tasks.get(uid)).title == "new"
    twice = Changeset((Add(NewTask(title="x", uid=UUID(int=1))), Add(NewTask(title="y", uid=UUID(int=1)))))
    failure, _, extra = await failure_of(tasks.write(twice))
    assert (failure, extra["index"]) == (Conflict, 1)


async def test_an_edit_without_effect_in_a_batch_leaves_no_entry(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a"))
    written = await tasks.write(Changeset((Edit(1, TaskPatch(title="a")), Edit(1, TaskPatch()))))
    assert written.results == (task, task)
    assert written.seq == 1
    assert (await tasks.changes()).next == 1


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_dry_batch_answers_and_writes_nothing(tasks: TaskService, atomic: bool) -> None:
    await tasks.add(NewTask(title="a", labels=["l"]))
    before = await everything(tasks)
    uid = uuid4()
    operations: tuple[Operation, ...] = (
        Add(NewTask(title="b", uid=uid)),
        Edit(uid, TaskPatch(title="c")),
        Edit(1, TaskPatch(labels=[])),
        Remove(1),
    )
    written = await tasks.write(Changeset(operations, atomic=atomic, dry_run=True))
    b, c, unlabelled, gone = written.results
    assert isinstance(b, Task)
    assert isinstance(c, Task)
    assert isinstance(unlabelled, Task)
    assert (b.id, c.title, c.version, unlabelled.labels, gone) == (2, "c", 2, (), None)
    assert await everything(tasks) == before
    # Neither an id nor the uid is spent.
    assert (await tasks.add(NewTask(title="d", uid=uid))).id == 2


async def test_a_dry_batch_that_would_fail_fails_alike(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a"))
    batch: tuple[Operation, ...] = (*adding("b"), Remove(9))
    assert await failure_of(tasks.write(Changeset(batch, dry_run=True))) == await failure_of(tasks.write(Changeset(batch)))
    results = (await tasks.write(Changeset(batch, atomic=False, dry_run=True))).results
    assert told(results[1]) == (TaskNotFound, "there is no task 9", {"id": 9})
    assert (await tasks.changes()).next == 1


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_read_only_member_that_differs_is_pointed_at(tasks: TaskService, atomic: bool) -> None:
    await tasks.add(NewTask(title="a"))
    edit = Edit(1, TaskPatch(title="c"), None, {"uid": "x", "id": 1, "created_at": None})
    operations: tuple[Operation, ...] = (*adding("b"), edit)
    detail = "; ".join(f"{name} cannot be set, and is not as it is in the task" for name in ("created_at", "uid"))

    def pointing(place: str) -> tuple[FieldError, ...]:
        both = zip(("created_at", "uid"), detail.split("; "), strict=True)
        return tuple(FieldError(f"{place}/{name}", "read_only", words) for name, words in both)

    if atomic:
        failure = await failure_of(tasks.write(Changeset(operations)))
        assert failure == (InvalidTask, detail, {"index": 1, "errors": pointing("/operations/1/patch")})
    else:
        failed = (await tasks.write(Changeset(operations, atomic=False))).results[1]
        assert told(failed) == (InvalidTask, detail, {"errors": pointing("")})


@pytest.mark.parametrize(("versions", "fits"), [((1, 2), False), ((3, 1, 2), True), ((), False), ((3,), True)])
async def test_a_condition_may_name_several_versions(tasks: TaskService, versions: tuple[int, ...], fits: bool) -> None:
    await tasks.add(NewTask(title="a"))
    for title in ("b", "c"):
        await tasks.edit(1, TaskPatch(title=title))
    for operation in (Edit(1, TaskPatch(title="d"), versions), Remove(1, versions)):
        call = tasks.write(Changeset((operation,), dry_run=True))
        if fits:
            await call
        else:
            detail = "task 1 is at version 3, and not at one that fits the condition"
            assert await failure_of(call) == (StaleTask, detail, {"id": 1, "current_version": 3, "index": 0})


@pytest.mark.parametrize("version", [True, "1", 1.0, (1, None), (True,), [1]])
def test_what_is_no_version_is_refused(version: object) -> None:
    for make in (lambda: Edit(1, TaskPatch(), version), lambda: Remove(1, version)):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="if_version must be a whole number, or several"):
            make()
