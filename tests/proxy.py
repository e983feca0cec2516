"""A TCP proxy that fails in the ways networks do: refuse, hang, be slow, cut, and cut just before or after something passes."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")


class _Cut(NamedTuple):
    words: bytes
    passes: bool
    refuse: bool


class _Pair:
    """The two ends of a connection, and how it is to be cut."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.cut: _Cut | None = None


class Proxy:
    """Forwards 127.0.0.1:`port` to another port. It runs in a thread of its own, so that it goes on while others block."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._cut: _Cut | None = None
        self._delay = 0.0
        self.taken = 0
        self.cuts = 0
        self.port = 0
        self._thread.start()
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self._writers.add(writer)
        await self._open.wait()
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(to_there)
        pair = _Pair(writer, to_there)
        await asyncio.gather(self._pump(reader, to_there, pair, is_client=True), self._pump(there, writer, pair, is_client=False))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: "_Pair", *, is_client: bool) -> None:
        try:
            while data := await source.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open.wait()
                if is_client and self._cut is not None and self._cut.words in data:
                    cut, self._cut = self._cut, None
                    pair.cut = cut
                    if not cut.passes:
                        self._done(cut)
                        break
                if pair.cut is not None and not is_client:
                    self._done(pair.cut)  # it is done there; nobody here will hear of it
                    break
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            for writer in (pair.client, pair.server):
                writer.transport.abort()
                self._writers.discard(writer)

    def _done(self, cut: "_Cut") -> None:
        if cut.refuse:
            assert self._server is not None
            self._server.close()
            self._abort()
        self.cuts += 1

    def cut_at(self, words: bytes, *, passes: bool, refuse: bool = False) -> None:
        """Break the next connection on which a client says these words: before they pass, or when they are answered.

        refuse: take no other connection from that moment on.
        """
        self._cut = _Cut(words, passes, refuse)

    def refuse(self) -> None:
        """Cut everything, and refuse whoever comes."""

        async def work() -> None:
            assert self._server is not None
            self._server.close()
            self._abort()

        self._do(work())

    def accept(self) -> None:
        """Take connections again."""
        self._do(self._listen())

    def hang(self) -> None:
        """Keep everything open, and pass nothing on: a network that swallows."""
        self._do(_now(self._open.clear))

    def go_on(self) -> None:
        """Pass on what came meanwhile, and everything after."""
        self._do(_now(self._open.set))

    def delay(self, seconds: float) -> None:
        """Keep everything that comes for so long before it is passed on; 0 ends this."""
        self._delay = seconds

    def cut(self) -> None:
        """Cut what is there; new connections are fine."""
        self._do(_now(self._abort))

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    def close(self) -> None:
        async def work() -> None:
            assert self._server is not None
            self._server.close()
            self._open.set()
            for _ in range(10):  # what is being connected just now would be left open
                await asyncio.sleep(0)
            self._abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _now(do: Callable[[], object]) -> Coroutine[Any, Any, None]:
    async def work() -> None:
        do()

    return work()
