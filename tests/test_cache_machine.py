"""The promise of the caches, step by step: two replicas, a database, a Redis with faults and a clock, in any order."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from taskctl.tasks import Add, Changeset, GetTask, IdempotencyKey, NewTask
from tests.simulation import Session, VirtualLoop, World, queries, writes

REPLICAS = st.sampled_from([0, 1])
SEEDS = st.integers(0, 2**16)
REDIS = ("empty", "note", "back", "down", "up")


class Caches(RuleBasedStateMachine):
    """What is begun goes on when time does; it may be overtaken by what is begun later."""

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.world = self._do(self._made(seed))
        self.sessions = [Session(), Session()]
        self.work: set[asyncio.Task[Any]] = set()

    async def _made(self, seed: int) -> World:
        """Return a world with three tasks, whose log both replicas follow."""
        world = World(seed, replicas=2)
        for replica in (world.replicas[0], world.replicas[0], world.replicas[1]):
            await world.write(replica, Changeset((Add(NewTask(title="new", labels=["a"])),)))
        for replica in world.replicas:
            await world.read(replica, GetTask(1))
        await asyncio.sleep(1)
        return world

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        async def started() -> None:
            task = asyncio.create_task(work)
            self.work.add(task)
            task.add_done_callback(self.work.discard)

        self._do(started())

    @rule(replica=REPLICAS, seed=SEEDS, key=st.sampled_from([None, None, "a", "b"]))
    def write(self, replica: int, seed: int, key: str | None) -> None:
        changes = writes(random.Random(seed), self.world.database)
        self._start(self.world.write(self.world.replicas[replica], changes, IdempotencyKey(key) if key else None))

    @rule(replica=REPLICAS, seed=SEEDS, session=st.sampled_from([None, 0, 1]))
    def ask(self, replica: int, seed: int, session: int | None) -> None:
        query = queries(random.Random(seed), self.world.database)
        who = self.sessions[session] if session is not None else None
        if who is not None and who.busy:
            return  # a session waits for its answer before it asks again
        self._start(self.world.read(self.world.replicas[replica], query, who))

    @rule(replica=REPLICAS, id=st.integers(1, 3))
    def ask_for_a_task(self, replica: int, id: int) -> None:
        self._start(self.world.read(self.world.replicas[replica], GetTask(id)))

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.3, 0.6, 1.9, 2.1, 5.0]))
    def time_goes_on(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    @rule(
        what=st.sampled_from([*REDIS, *REDIS, "still", "on", "anew", "away", "back again", "copy"]),
        replica=REPLICAS,
        lost=st.integers(0, 3),
    )
    def something_goes_wrong(self, what: str, replica: int, lost: int) -> None:
        redis, world = self.world.redis, self.world
        match what:
            case "empty":
                redis.kept.clear()
            case "note":
                redis.before = dict(redis.kept)
            case "back":
                redis.kept = dict(redis.before)
            case "up" | "down":
                redis.up = what == "up"
            case "still":
                world.replicas[replica].running.clear()
            case "on":
                for one in world.replicas:
                    one.running.set()
            case "anew":
                self._do(world.restart(replica))
            case "away" | "back again":
                world.database.up = what == "back again"
            case "copy":

                async def copied() -> None:
                    world.fail_over(lost)

                self._do(copied())
                for session in self.sessions:
                    session.at = ""

    @invariant()
    def no_answer_is_wrong(self) -> None:
        if hasattr(self, "world"):
            assert self.world.wrong == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return

        async def end() -> None:
            self.world.database.up = True
            for replica in self.world.replicas:
                replica.running.set()
            await asyncio.sleep(20)
            await self.world.close()

        self._do(end())
        self.runner.close()
        assert self.world.wrong == []


TestCaches = Caches.TestCase
