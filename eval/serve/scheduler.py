"""One thread owns the engine; the event loop passes it requests and receives their events.

The events of a call are handed over together, so that the loop is woken once a call, not once a
token.
"""

import asyncio
import collections
import contextlib
import queue
import sys
import threading
import traceback
from collections.abc import AsyncIterator

from eval.serve.limits import ApiError, busy
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import Engine
from jaxmodels.generation.request import Event, Request, Session

BROKEN = "the server's engine failed; its log says why"


class Stream:
    """The events of some requests, for one reader in the event loop: (index, event)."""

    def __init__(self, requests: list[Request]):
        self.requests, self.loop = requests, asyncio.get_running_loop()
        self.left = len(requests)  # whose last event has not come
        self._events: collections.deque[tuple[int, Event] | ApiError] = collections.deque()
        self._some = asyncio.Event()

    def put(self, item: tuple[int, Event] | ApiError) -> None:
        """Add an event, or the error that ends all requests; called in the event loop."""
        ended = isinstance(item, ApiError)
        self.left = 0 if ended else max(self.left - item[1].last, 0)
        self._events.append(item)
        self._some.set()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        while self.left or self._events:
            while self._events:
                item = self._events.popleft()
                if isinstance(item, ApiError):
                    raise item
                yield item
            self._some.clear()
            if self.left:
                await self._some.wait()


class Scheduler:
    """Runs an engine in a thread of its own.

    Attributes:
      broken: whether the engine failed; then all requests are refused.
      open: requests that were admitted and have not ended; of the event loop.
    """

    def __init__(self, engine: Engine, queue_size: int):
        self.engine, self.broken, self.open = engine, False, 0
        self._most = engine.slots + queue_size
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._streams: dict[int, tuple[Stream, int]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current call."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

    @contextlib.contextmanager
    def admitted(self, count: int = 1):
        """Take the places of so many requests; raise ApiError unless slots and queue have them."""
        if self.broken:
            raise ApiError(503, BROKEN, code="engine_failed")
        if self.open + count > self._most:
            raise busy()
        self.open += count
        try:
            yield
        finally:
            self.open -= count

    @contextlib.asynccontextmanager
    async def run(self, *requests: Request):
        """Submit requests and give their `Stream`; on leaving before its end, cancel them."""
        stream = Stream(list(requests))
        self._inbox.put((stream, True))
        try:
            yield stream
        finally:
            if stream.left:
                self._inbox.put((stream, False))

    async def read(self, request: Request) -> Session:
        """Return the session after the prompt of a request that draws nothing and is kept."""
        async with self.run(request) as stream:
            async for _, event in stream:
                if event.error:
                    raise ApiError(500, event.error)
        return event.session

    def _run(self):
        while True:
            try:
                if not self._obey():
                    return
                if not self.engine.idle:
                    self._deliver(self.engine.advance())
            except Exception:  # whatever it is, nobody may wait for ever
                traceback.print_exc(file=sys.stderr)
                self.broken = True
                waiting = [stream for stream, _ in self._streams.values()]
                while not self._inbox.empty():
                    order = self._inbox.get()
                    if order is not None and order[1]:
                        waiting.append(order[0])
                for stream in dict.fromkeys(waiting):
                    _hand_over(stream.loop, [(stream, ApiError(500, BROKEN))])
                return

    def _obey(self) -> bool:
        """Carry out what is in the inbox, waiting for it if idle; return False to stop."""
        while True:
            try:
                order = self._inbox.get(block=self.engine.idle)
            except queue.Empty:
                return True
            if order is None:
                return False
            stream, starts = order
            try:
                if starts:
                    for index, request in enumerate(stream.requests):
                        self._streams[self.engine.submit(request)] = stream, index
                    continue
            except UserError as error:
                _hand_over(stream.loop, [(stream, ApiError(400, str(error)))])
            for number, (other, _) in list(self._streams.items()):
                if other is stream:
                    self.engine.cancel(number)

    def _deliver(self, events: list[Event]):
        batches: dict[asyncio.AbstractEventLoop, list] = {}
        for event in events:
            known = self._streams.pop if event.last else self._streams.__getitem__
            stream, index = known(event.id)
            batches.setdefault(stream.loop, []).append((stream, (index, event)))
        for loop, batch in batches.items():
            _hand_over(loop, batch)


def _hand_over(loop, batch):
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_put, batch)


def _put(batch):
    for stream, item in batch:
        stream.put(item)
