"""Continuous batching: requests share the slots of one compiled step, and join and leave at will.

    engine = Engine(model, slots=8)
    first = engine.submit(Request(prompt, max_tokens=100))
    while not engine.idle:
        for event in engine.advance():
            ...

A prompt is read in whole pieces, in parallel over time; what remains, at least its last token, is
read by steps beside the others' drawn tokens. The programs are the same whatever the requests
(`programs.py`), and random numbers depend on a request's seed and the number of a token alone:
a request's tokens are those that it has alone, bit for bit, in whichever slot.

A call is started before the results of the one before are looked at, so that the device does not
wait for the host.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.generation.prefixes import ROOT, Prefixes
from jaxmodels.generation.programs import (
    BLANK,
    BROKEN,
    CONTINUED,
    ENDED,
    PLACED,
    TOP,
    Drawn,
    Orders,
    Pool,
    programs_of,
)
from jaxmodels.generation.request import CANCELLED, END, LENGTH, STOP, Event, Request, Session
from jaxmodels.generation.sampling import Options, whole_number
from jaxmodels.models.contract import traits_of

PIECE = 64  # tokens of a prompt that are read at a time
MANY, FEW = 32, 8  # most tokens of a call; while a request waits
NAN = "the model computes NaN; train it again or take another checkpoint"


@dataclasses.dataclass(eq=False)
class _Job:
    """A request in a slot or in the queue."""

    id: int
    request: Request
    unread: np.ndarray  # tokens of the prompt that no call was ordered to read
    pieces: list[np.ndarray] = dataclasses.field(default_factory=list)
    key: bytes | None = ROOT  # of the pieces read, None if a session began it
    state: Any = None  # of one row, until it is placed
    begin: int = BLANK
    left: int = 0  # most tokens that calls have not been ordered to draw
    drawn: int = 0
    done: bool = False


@dataclasses.dataclass
class _Call:
    """A call whose results have not been looked at."""

    before: Pool
    orders: Orders
    drawn: Drawn
    jobs: list[tuple[int, _Job, bool]]  # slot, job, whether its prompt is read after the call


class Engine:
    """Slots of a compiled step; for one thread.

    Args:
      model: a left-to-right language model (`initial_state`, `__call__`, `step`).
      slots: requests that are decoded at the same time.
      piece: tokens of a prompt that are read at a time.
      many, few: most tokens of a call; the latter while a request waits.
      prefix_bytes: limit of the prefix cache, see `Prefixes`.
      watch: (model, state before, state after, out of `step`) -> leaves (slots, ...), evaluated at
        every token for requests that ask for it.

    Raises:
      UserError: the model has no `step`.
    """

    def __init__(
        self,
        model,
        *,
        slots: int = 1,
        piece: int = PIECE,
        many: int = MANY,
        few: int = FEW,
        prefix_bytes: int = 0,
        watch: Callable | None = None,
    ):
        if not traits_of(model).step:
            raise UserError(
                f"{type(model).__name__} has no step(): it is not a left-to-right language model"
            )
        for name, value in (("slots", slots), ("piece", piece), ("many", many), ("few", few)):
            if whole_number(name, value) < 1:
                raise UserError(f"{name}={value}: give 1 or more")
        self.slots, self.piece, self.many, self.few = slots, piece, many, min(few, many)
        self.prefixes = Prefixes(prefix_bytes)
        self._leaves, treedef = jax.tree.flatten(model)
        self._programs = programs_of(treedef, slots, many, watch)
        self._pool = self._programs.start(self._leaves)
        self.vocab = self._pool.logits.shape[-1]
        self._initial = model.initial_state(1)
        self._no_logits = np.zeros((1, self.vocab), np.float32)
        self._jobs: list[_Job | None] = [None] * slots
        self._waiting: collections.deque[_Job] = collections.deque()
        self._reading: collections.deque[int] = collections.deque()  # slots with pieces to read
        self._orders = Orders.none(slots, many)
        self._flying: _Call | None = None
        self._events: list[Event] = []
        self._ids = itertools.count()

    @property
    def idle(self) -> bool:
        """Return whether nothing is to be done or told."""
        busy = self._waiting or self._flying or self._events
        return not busy and not any(self._jobs)

    @property
    def waiting(self) -> int:
        """Return the number of requests without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Return the number of requests with a slot."""
        return sum(job is not None for job in self._jobs)

    def submit(self, request: Request) -> int:
        """Queue a request; return its id, which its events have.

        Raises:
          UserError: ids outside the vocabulary, or a session of another size.
        """
        ids, session = request.prompt, request.session
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab:
            wrong = next(int(i) for i in ids if not 0 <= i < self.vocab)
            raise UserError(f"prompt: no token {wrong}; the vocabulary is 0 to {self.vocab - 1}")
        if request.top is not None and not 0 <= request.top <= min(TOP, self.vocab):
            raise UserError(f"logprobs={request.top}: give 0 to {min(TOP, self.vocab)}")
        job = _Job(next(self._ids), request, ids, left=request.max_tokens)
        if session is not None:
            job.drawn = session.drawn
        if session is not None and session.state is not None:
            shapes = jax.tree.map(lambda x: np.shape(x), session.state)
            if shapes != jax.tree.map(lambda x: x.shape, self._initial):
                raise UserError("session: not a state of this model with a batch size of 1")
            job.state, job.begin, job.key = session.state, PLACED, None
        whole = max(len(ids) - 1, 0) // self.piece * self.piece
        job.pieces = [ids[i : i + self.piece] for i in range(0, whole, self.piece)]
        self._waiting.append(job)
        return job.id

    def cancel(self, id: int) -> None:
        """End a request; its last event, unless it has come, is "cancelled"."""
        for job in (*self._waiting, *self._jobs):
            if job is not None and job.id == id:
                if job in self._waiting:
                    self._waiting.remove(job)
                self._finish(job, Event(id, [], finish_reason=CANCELLED))

    def warm_up(self) -> None:
        """Compile all programs, so that the first request does not wait for them."""
        limit, self.prefixes.limit = self.prefixes.limit, 0
        session = None
        for prompt in (np.zeros(self.piece + 1, np.int32), ()):
            self.submit(Request(prompt, 1, session=session, keep=True))
            while not self.idle:
                for event in self.advance():
                    session = event.session
        self.prefixes.limit = limit

    def advance(self) -> list[Event]:
        """Read pieces of prompts, start a call, and return what came of the one before."""
        self._admit()
        self._read()
        call = self._call()
        if self._flying is not None:
            self._collect(self._flying)
        self._flying = call
        events, self._events = self._events, []
        return events

    def _admit(self):
        for slot in range(self.slots):
            if self._jobs[slot] is None and self._waiting:
                job = self._jobs[slot] = self._waiting.popleft()
                if job.pieces and job.key is not None and self.prefixes.limit:
                    count, job.key, state = self.prefixes.find(job.pieces)
                    if count:
                        job.state, job.pieces = state, job.pieces[count:]
                        job.unread = job.unread[count * self.piece :]
                self._reading.append(slot)

    def _read(self):
        """Read pieces until all slots are placed, or one piece while others decode."""
        decoding = any(
            job is not None and slot not in self._reading for slot, job in enumerate(self._jobs)
        )
        while self._reading:
            slot = self._reading[0]
            job = self._jobs[slot]
            if job is None or job.done:
                self._reading.popleft()
            elif job.pieces:
                piece = job.pieces.pop(0)
                state = self._initial if job.state is None else job.state
                job.state = self._programs.read_piece(self._leaves, state, piece[None])
                job.unread = job.unread[self.piece :]
                if job.key is not None and self.prefixes.limit:
                    job.key = self.prefixes.add(job.key, piece, job.state)
                if decoding:
                    break
            else:
                self._place(slot, job)
                self._reading.popleft()

    def _place(self, slot, job):
        request = job.request
        if job.state is not None:
            job.begin = PLACED
            seen = np.zeros(self.vocab, bool)
            seen[request.prompt[: len(request.prompt) - len(job.unread)]] = True
            logits = request.session.logits if not request.prompt.size else None
            logits = self._no_logits if logits is None else logits
            self._pool = self._programs.place(self._pool, slot, job.state, logits, seen)
            job.state = None
        o = self._orders
        o.left[slot], o.drawn[slot], o.seed[slot] = job.left, job.drawn, request.seed
        o.ends[slot] = -1
        o.ends[slot, : len(request.end_tokens)] = request.end_tokens
        row = Options.rows([request.sampling])
        for name in row.__dataclass_fields__:
            getattr(o.options, name)[slot] = getattr(row, name)[0]

    def _call(self) -> _Call | None:
        """Start a call if a slot has something to read or draw."""
        orders = jax.tree.map(np.copy, self._orders)  # the device may still read the last ones
        count, jobs, top, watched = 0, [], False, False
        busy = bool(self._waiting or self._reading)
        limit = self.few if busy else self.many
        for slot, job in enumerate(self._jobs):
            if job is None or slot in self._reading:
                continue
            if not len(job.unread) and not job.left and job.begin == CONTINUED:
                continue  # its last token is in the call before
            orders.halt[slot] = False
            reading = min(len(job.unread), limit)
            orders.forced[slot, :reading] = job.unread[:reading]
            orders.reading[slot], orders.begin[slot] = reading, job.begin
            job.unread, job.begin = job.unread[reading:], CONTINUED
            drawing = 0 if len(job.unread) else min(job.left, limit - reading)
            orders.most[slot] = drawing
            job.left -= drawing
            count = max(count, reading + drawing)
            top, watched = top or job.request.top is not None, watched or job.request.watch
            jobs.append((slot, job, not len(job.unread)))
        if not jobs:
            return None
        flags = dict(top=np.bool_(top), watch=np.bool_(watched))
        orders = orders._replace(count=np.int32(count), **flags)
        before = self._pool
        self._pool, drawn = self._programs.decode(self._leaves, before, orders)
        return _Call(before, orders, drawn, jobs)

    def _collect(self, call: _Call):
        """Turn the results of a call into events."""
        drawn = call.drawn
        counts, lefts, whys, tokens = map(
            np.asarray, (drawn.count, drawn.left, drawn.why, drawn.tokens)
        )
        details = [job.request for _, job, _ in call.jobs]
        logprobs = watch = None
        if any(request.top is not None for request in details):
            logprobs = [np.asarray(x) for x in (drawn.logprobs, drawn.top_ids, drawn.top_logprobs)]
        if any(request.watch for request in details):
            watch = np.asarray(drawn.steps), jax.tree.map(np.asarray, drawn.watch)
        for slot, job, read in call.jobs:
            if job.done:
                continue
            request, count = job.request, int(counts[slot])
            event = Event(job.id, tokens[slot, :count].tolist())
            stopped = None
            if request.text is not None and count:
                event.pieces, stopped = request.text.push(event.tokens)
                event.tokens = event.tokens[:stopped]
            if request.top is not None:
                _add_logprobs(event, request.top, *(x[slot] for x in logprobs))
            if request.watch and watch is not None:
                steps = int(watch[0][slot]) - (count - len(event.tokens))
                event.watch = jax.tree.map(lambda x, n=steps, s=slot: x[s, :n], watch[1])
            job.drawn += len(event.tokens)
            if whys[slot] == BROKEN:
                event.error = NAN
            elif stopped is not None:
                event.finish_reason = STOP
            elif read and not lefts[slot]:
                event.finish_reason = END if whys[slot] == ENDED else LENGTH
            if event.last:
                surplus = stopped is not None and (stopped < count or lefts[slot])
                self._close(slot, job, event, call if surplus else None)
            elif event.tokens or event.watch is not None:
                self._events.append(event)

    def _close(self, slot, job, event, call: _Call | None):
        """Finish a request; `call` is that whose surplus tokens its session must not have."""
        request = job.request
        if request.text is not None and event.finish_reason in (LENGTH, END):
            text, stopped = request.text.finish()
            event.pieces.append(text)
            event.finish_reason = STOP if stopped else event.finish_reason
        if request.keep and event.error is None:
            pool = self._pool if call is None else self._again(call, slot, len(event.tokens))
            state, logits = self._programs.take(pool, slot)
            begun = request.session.tokens_read if request.session is not None else 0
            drawn = job.drawn - (request.session.drawn if request.session is not None else 0)
            read = begun + len(request.prompt) + drawn
            event.session = Session(state, logits, read, job.drawn)
        self._finish(job, event)

    def _again(self, call: _Call, slot: int, count: int) -> Pool:
        """Repeat a call for one slot and fewer tokens: the same program gives the same state."""
        orders = jax.tree.map(np.copy, call.orders)
        others = np.arange(self.slots) != slot
        orders.halt[others], orders.reading[others] = True, 0
        orders.most[slot] = count
        return self._programs.decode(self._leaves, call.before, orders)[0]

    def _finish(self, job: _Job, event: Event):
        job.done = True
        if job in self._jobs:
            slot = self._jobs.index(job)
            self._jobs[slot] = None
            if slot in self._reading:
                self._reading.remove(slot)
        self._events.append(event)


def _add_logprobs(event: Event, top: int, chosen, ids, values):
    count = len(event.tokens)
    event.logprobs = chosen[:count].tolist()
    event.top_logprobs = [
        list(zip(i, v, strict=True))
        for i, v in zip(ids[:count, :top].tolist(), values[:count, :top].tolist(), strict=True)
    ]
