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

The slots are in blocks, each with a state of its own; a block without a request costs nothing. On
a CPU, blocks are small: the states of sixteen rows stay in its caches, and one stream does not pay
for sixty-four.
"""

import collections
import itertools
from collections.abc import Callable

import jax
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.generation.blocks import Block, Job
from jaxmodels.generation.prefixes import Prefixes
from jaxmodels.generation.programs import PLACED, TOP, programs_of
from jaxmodels.generation.request import CANCELLED, RECENT, Event, Request
from jaxmodels.generation.sampling import whole_number
from jaxmodels.models.contract import traits_of

PIECE = 64  # tokens of a prompt that are read at a time
MANY, FEW = 32, 8  # most tokens of a call; while a request waits
CPU_BLOCK = 16  # slots


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
        block = CPU_BLOCK if jax.default_backend() == "cpu" else slots
        count = -(-slots // block)
        size = -(-slots // count)
        self._programs = programs_of(treedef, size, many, watch)
        blocks = (Block(self._programs, self._leaves, size, many) for _ in range(count))
        self._blocks = tuple(blocks)
        self._turns = collections.deque(self._blocks)
        self.vocab = self._blocks[0].vocab
        self._initial = model.initial_state(1)
        self._waiting: collections.deque[Job] = collections.deque()
        self._reading: collections.deque[tuple[Block, Job]] = collections.deque()
        self._events: list[Event] = []
        self._ids = itertools.count()

    @property
    def idle(self) -> bool:
        """Return whether nothing is to be done or told."""
        flying = any(block.flying for block in self._blocks)
        return not (self._waiting or self._events or flying or self.running)

    @property
    def waiting(self) -> int:
        """Return the number of requests without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Return the number of requests with a slot."""
        return sum(job is not None for block in self._blocks for job in block.jobs)

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
        job = Job(next(self._ids), request, ids, left=request.max_tokens)
        job.recent = tuple(ids[-RECENT:].tolist())
        if session is not None:
            job.drawn, job.recent = session.drawn, (*session.recent, *job.recent)[-RECENT:]
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
        homes = [self._waiting, *(block.jobs for block in self._blocks)]
        for home in homes:
            job = next((x for x in home if x is not None and x.id == id), None)
            if job is None:
                continue
            job.done = True
            if home is self._waiting:
                home.remove(job)
            else:
                home[home.index(job)] = None
            self._events.append(Event(id, [], finish_reason=CANCELLED))

    def warm_up(self) -> None:
        """Compile all programs, so that no request waits for them.

        Raises:
          UserError: the model computes NaN.
        """
        limit, self.prefixes.limit = self.prefixes.limit, 0
        session = None
        for prompt in (np.zeros(self.piece + 1, np.int32), ()):
            self.submit(Request(prompt, 1, session=session, keep=True, top=0))
            while not self.idle:
                for event in self.advance():
                    if event.error:
                        raise UserError(event.error)
                    session = event.session
        self.prefixes.limit = limit

    def advance(self) -> list[Event]:
        """Read pieces of prompts, start a call, and return what came of one before.

        Blocks take turns. While another block computes, results are looked at first, so that a slot
        that became free is in the call; else the call is started first, so that the device does not
        wait for the host.
        """
        self._admit()
        self._read()
        block = self._next()
        if block is not None:
            alone = not any(x.flying for x in self._blocks if x is not block)
            if not alone:
                self._events += block.collect()
                self._admit()
                self._read()
            limit = self.few if self._waiting or self._reading else self.many
            self._events += block.advance(limit)
        events, self._events = self._events, []
        return events

    def _next(self) -> Block | None:
        """Return the block whose turn it is, of those that have something to do."""
        for _ in self._blocks:
            self._turns.rotate(-1)
            block = self._turns[-1]
            if block.flying or block.decoding:
                return block
        return None

    def _admit(self):
        free = ((b, s) for b in self._blocks for s, job in enumerate(b.jobs) if job is None)
        for block, slot in itertools.islice(free, self.slots - self.running):
            if not self._waiting:
                return
            job = block.jobs[slot] = self._waiting.popleft()
            if job.pieces and job.key is not None and self.prefixes.limit:
                count, job.key, state = self.prefixes.find(job.pieces)
                if count:
                    job.state, job.pieces = state, job.pieces[count:]
                    job.unread = job.unread[count * self.piece :]
            self._reading.append((block, job))

    def _read(self):
        """Read pieces until all slots are placed, or one piece while others decode."""
        decoding = any(block.decoding for block in self._blocks)
        while self._reading:
            block, job = self._reading[0]
            if not job.done and job.pieces:
                piece = job.pieces.pop(0)
                state = self._initial if job.state is None else job.state
                job.state = self._programs.read_piece(self._leaves, state, piece[None])
                job.unread = job.unread[self.piece :]
                if job.key is not None and self.prefixes.limit:
                    job.key = self.prefixes.add(job.key, piece, job.state)
                if decoding:
                    break
            else:
                self._reading.popleft()
                if not job.done:
                    block.place(job)
