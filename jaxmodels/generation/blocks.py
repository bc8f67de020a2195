"""Slots that are decoded in one call: their orders, and the events of what came of a call."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxmodels.generation.prefixes import ROOT
from jaxmodels.generation.programs import (
    BLANK,
    BROKEN,
    CONTINUED,
    ENDED,
    PLACED,
    Drawn,
    Look,
    Orders,
    Pool,
    Programs,
)
from jaxmodels.generation.request import END, LENGTH, RECENT, STOP, Event, Request, Session
from jaxmodels.generation.sampling import Options

NAN = "the model computes NaN; train it again or take another checkpoint"


@dataclasses.dataclass(eq=False)
class Job:
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
    recent: tuple[int, ...] = ()  # the last ids of its session, prompt and drawn tokens
    reading: bool = True  # until all pieces are read
    done: bool = False


@dataclasses.dataclass
class _Call:
    """A call whose results have not been looked at."""

    before: Pool
    orders: Orders
    drawn: Drawn
    look: Look | None
    jobs: list[tuple[int, Job, bool]]  # slot, job, whether its prompt is read after the call


class Block:
    """Slots with a pool of their own.

    Args:
      programs: compiled for so many slots and `most` tokens of a call.
      leaves: of the model.

    Attributes:
      jobs: that of each slot, or None.
    """

    def __init__(self, programs: Programs, leaves, slots: int, most: int):
        self._programs, self._leaves, self.jobs = programs, leaves, [None] * slots
        self._pool = programs.start(leaves)
        self._orders = Orders.none(slots, most)
        self._flying: _Call | None = None
        self.vocab = self._pool.logits.shape[-1]

    @property
    def flying(self) -> bool:
        """Return whether a call was started that was not looked at."""
        return self._flying is not None

    @property
    def decoding(self) -> bool:
        """Return whether there is a request whose pieces are read."""
        return any(job is not None and not job.reading for job in self.jobs)

    def place(self, job: Job) -> None:
        """Begin to decode a job that has a slot, after its pieces."""
        request, slot = job.request, self.jobs.index(job)
        if job.state is not None:
            job.begin = PLACED
            seen = np.zeros(self.vocab, bool)
            seen[request.prompt[: len(request.prompt) - len(job.unread)]] = True
            logits = request.session.logits if not request.prompt.size else None
            logits = np.zeros((1, self.vocab), np.float32) if logits is None else logits
            self._pool = self._programs.place(self._pool, slot, job.state, logits, seen)
            job.state = None
        o = self._orders
        o.left[slot], o.drawn[slot], o.seed[slot] = job.left, job.drawn, request.seed
        o.ends[slot] = -1
        o.ends[slot, : len(request.end_tokens)] = request.end_tokens
        row = Options.rows([request.sampling])
        for name in row.__dataclass_fields__:
            getattr(o.options, name)[slot] = getattr(row, name)[0]
        job.reading = False

    def advance(self, limit: int) -> list[Event]:
        """Start a call of so many steps, if there is anything to do; return the last's events."""
        call, events = self._start(limit), self.collect()
        self._flying = call
        return events

    def _start(self, limit) -> _Call | None:
        orders = jax.tree.map(np.copy, self._orders)  # the device may still read the last ones
        count, jobs, looks = 0, [], False
        for slot, job in enumerate(self.jobs):
            if job is None or job.reading:
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
            looks = looks or job.request.looks
            jobs.append((slot, job, not len(job.unread)))
        if not jobs:
            return None
        orders, before = orders._replace(count=np.int32(count)), self._pool
        self._pool, drawn = self._programs.decode(self._leaves, before, orders)
        look = self._programs.look(self._leaves, before, orders, drawn) if looks else None
        return _Call(before, orders, drawn, look, jobs)

    def collect(self) -> list[Event]:
        """Wait for the call under way, if there is one, and return its events."""
        call, self._flying = self._flying, None
        if call is None:
            return []
        drawn, events = call.drawn, []
        counts, lefts, whys, tokens = map(
            np.asarray, (drawn.count, drawn.left, drawn.why, drawn.tokens)
        )
        look = jax.tree.map(np.asarray, call.look)
        for slot, job, read in call.jobs:
            if job.done:
                continue
            request, count = job.request, int(counts[slot])
            event = Event(job.id, tokens[slot, :count].tolist())
            stopped = None
            if request.text is not None and count:
                event.pieces, stopped = request.text.push(event.tokens)
                event.tokens = event.tokens[:stopped]
            if request.looks:
                _add_look(event, request, look, slot, int(call.orders.reading[slot]))
            job.drawn += len(event.tokens)
            job.recent = (*job.recent, *event.tokens)[-RECENT:]
            if whys[slot] == BROKEN:
                event.error = NAN
            elif stopped is not None:
                event.finish_reason = STOP
            elif read and not lefts[slot]:
                event.finish_reason = END if whys[slot] == ENDED else LENGTH
            if event.last:
                surplus = stopped is not None and (stopped < count or lefts[slot])
                self._close(slot, job, event, call if surplus else None)
            if event.last or event.tokens or event.watch is not None:
                events.append(event)
        return events

    def _close(self, slot, job, event, call: _Call | None):
        """End a request; `call` is that whose surplus tokens its session must not have."""
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
            event.session = Session(state, logits, read, job.drawn, job.recent)
        job.done, self.jobs[slot] = True, None

    def _again(self, call: _Call, slot: int, count: int) -> Pool:
        """Repeat a call for one slot and fewer tokens: the same program gives the same state."""
        orders = jax.tree.map(np.copy, call.orders)
        others = np.arange(len(self.jobs)) != slot
        orders.halt[others], orders.reading[others] = True, 0
        orders.most[slot] = count
        return self._programs.decode(self._leaves, call.before, orders)[0]


def _add_look(event: Event, request: Request, look: Look, slot: int, reading: int):
    """Add what a request asks for, at the tokens read and drawn in the call."""
    end = reading + len(event.tokens)
    if request.top is not None:
        event.logprobs = look.logprobs[slot, reading:end].tolist()
        top = slice(reading, end), slice(request.top)
        ids, values = look.top_ids[slot][top].tolist(), look.top_logprobs[slot][top].tolist()
        pairs = zip(ids, values, strict=True)
        event.top_logprobs = [list(zip(*pair, strict=True)) for pair in pairs]
    if request.watch:
        event.watch = jax.tree.map(lambda x: x[slot, :end], look.watch)
