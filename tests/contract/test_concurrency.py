"""Many callers at once: nothing is lost, mixed up, or written twice."""

import asyncio

from taskctl import Add, Changeset, NewTask, StaleTask, Task, TaskctlError, TaskPatch, TaskQuery, TaskService


async def test_adds_from_64_callers_leave_a_log_without_a_gap(tasks: TaskService) -> None:
    async def caller(name: int) -> list[Task]:
        return [await tasks.add(NewTask(title=f"{name}/{n}")) for n in range(8)]

    added = [task for mine in await asyncio.gather(*map(caller, range(64))) for task in mine]
    assert sorted(task.id for task in added) == list(range(1, 513))
    listed = (await tasks.list(TaskQuery(limit=None))).items
    assert sorted(listed, key=lambda task: task.id) == sorted(added, key=lambda task: task.id)
    log = (await tasks.changes(limit=1000)).items
    assert [entry.seq for entry in log] == list(range(1, 513))
    assert [entry.at for entry in log] == sorted(entry.at for entry in log)
    assert len({entry.changeset for entry in log}) == 512


async def test_of_many_who_have_seen_a_version_one_may_write(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="t"))

    async def writer(name: int) -> bool:
        try:
            await tasks.edit(1, TaskPatch(title=str(name)), if_version=1)
        except StaleTask as e:
            assert e.extra["current_version"] == 2
            return False
        return True

    assert sum(await asyncio.gather(*map(writer, range(32)))) == 1
    assert (await tasks.get(1)).version == 2


async def test_edits_of_one_task_at_once_make_one_version_each(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="t"))
    edited = await asyncio.gather(*(tasks.edit(1, TaskPatch(title=str(n))) for n in range(64)))
    assert sorted(task.version for task in edited) == list(range(2, 66))
    history = (await tasks.history(1, limit=None)).items
    titles = {task.version: task.title for task in edited}
    assert [entry.after["title"] for entry in history[:-1] if entry.after] == [titles[v] for v in range(65, 1, -1)]


async def test_of_many_who_add_one_uid_one_succeeds(tasks: TaskService) -> None:
    uid = (await tasks.add(NewTask(title="t"))).uid
    await tasks.remove(uid)
    results = await asyncio.gather(*(tasks.add(NewTask(title=str(n), uid=uid)) for n in range(32)), return_exceptions=True)
    assert sum(isinstance(result, Task) for result in results) == 1
    assert sum(isinstance(result, TaskctlError) and result.code == "conflict" for result in results) == 31
    assert len((await tasks.list()).items) == 1


async def test_a_failing_changeset_does_not_disturb_its_neighbours(tasks: TaskService) -> None:
    good = [tasks.write(Changeset((Add(NewTask(title="a")), Add(NewTask(title="b"))))) for _ in range(20)]
    bad = [tasks.edit(9999, TaskPatch(title="x")) for _ in range(20)]
    dry = [tasks.add(NewTask(title="dry"), dry_run=True) for _ in range(20)]
    mixed = [call for three in zip(good, bad, dry, strict=True) for call in three]
    results = await asyncio.gather(*mixed, return_exceptions=True)
    assert [isinstance(result, TaskctlError) for result in results] == [False, True, False] * 20
    listed = (await tasks.list(TaskQuery(limit=None, sort=("id",)))).items
    assert [(task.id, task.title) for task in listed] == [(n, "ab"[(n - 1) % 2]) for n in range(1, 41)]
    assert (await tasks.changes()).next == 40


async def test_readers_see_whole_changesets_only(tasks: TaskService) -> None:
    done = asyncio.Event()

    async def write() -> None:
        for _ in range(30):
            await tasks.write(Changeset(tuple(Add(NewTask(title=str(n))) for n in range(5))))
        done.set()

    async def read() -> None:
        while not done.is_set():
            assert len((await tasks.list(TaskQuery(limit=None))).items) % 5 == 0
            changes = await tasks.changes(limit=1000)
            assert changes.next % 5 == 0

    await asyncio.gather(write(), read(), read())
