"""A model that is served: what a request asks of it, and what became of it, without HTTP."""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

import jaxmodels
from eval.chat.conventions import REFUSAL
from eval.chat.guide import Guided
from eval.serve import inside
from eval.serve.answers import Usage
from eval.serve.dialogue import dialogue_of, engine_model, unwrapped, wrapped
from eval.serve.limits import ApiError, Limits
from eval.serve.metrics import Metrics
from eval.serve.scheduler import Scheduler
from eval.serve.store import Store
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import Engine
from jaxmodels.generation.request import END, Event, Request, Session
from jaxmodels.generation.sampling import SEEDS, Sampling
from jaxmodels.generation.text import TextOf, checked_stops
from jaxmodels.models.rnk.model import RNK


@dataclasses.dataclass
class Task:
    """A checked request, ready to run.

    Attributes:
      choices: requests of the engine, in the order of the choices.
      usage: tokens so far.
      heard: for a chat, what was read; else None.
      out: name to save the session by, or None; replace: whether it exists and may be replaced.
      inside: whether to look inside.
      refuse_below: see `Service`.
    """

    choices: list[Request]
    usage: Usage
    heard: Any = None
    out: str | None = None
    replace: bool = False
    inside: bool = False
    refuse_below: float = 0.0


class Service:
    """A model, its engine's thread and its sessions.

    Args:
      model, tokenizer: as trained.
      name: of the model, for clients.
      folder: of saved sessions.
      limits: see `Limits`.
      chats: whether the model was trained on conversations.
      template, endings: see `dialogue_of`.
      refuse_below: RNK refuses a chat that it can answer with a lower probability.
      stop_above: see `Guided`.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        name: str,
        folder: Path,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        chats: bool = False,
        template=None,
        endings=((), ()),
        refuse_below: float = 0.0,
        stop_above: float | None = None,
    ):
        self.name, self.tokenizer, self.limits = name, tokenizer, limits
        self.created, self.parameters = int(time.time()), jaxmodels.count_parameters(model)
        self.model = engine_model(model, tokenizer, stop_above)
        # Longer calls cost less; text comes, and slots become free, once a call.
        options = dict(slots=limits.slots, many=16, few=4, watch=inside.watch)
        self.engine = Engine(self.model, prefix_bytes=limits.prefix_bytes, **options)
        self.scheduler = Scheduler(self.engine, limits.queue)
        self.store = Store(folder, model, limits.max_sessions, limits.session_bytes)
        how = dict(chats=chats, template=template, endings=endings)
        self.dialogue = dialogue_of(self.model, tokenizer, **how)
        self.refuse_below = refuse_below if isinstance(model, RNK) else 0.0
        self.metrics = Metrics()
        self._in_use: set[str] = set()
        engine, watch = self.engine, self.metrics.watch
        watch("slots_running", "requests with a slot", lambda: engine.running)
        watch("requests_open", "requests running or waiting", lambda: self.scheduler.open)
        watch("prefix_bytes", "bytes of the prefix cache", lambda: engine.prefixes.size)
        watch("prefix_hits", "pieces of prompts found", lambda: engine.prefixes.hits)
        watch("prefix_misses", "pieces of prompts not found", lambda: engine.prefixes.misses)
        watch("sessions", "saved sessions", lambda: len(self.store))
        watch("session_bytes", "bytes of saved sessions", lambda: self.store.bytes)

    @contextlib.asynccontextmanager
    async def task(self, body: dict, *, chat: bool) -> AsyncIterator[Task]:
        """Check a request, take its places, and read its messages; raise ApiError if it cannot be.

        The names of its sessions are its own until the block ends.
        """
        if body["model"] != self.name:
            message = f"no model {body['model']!r:.80}; this is {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        prompts = [None] if chat else self._prompts(body["prompt"])
        count = body.get("n", 1) * len(prompts)
        if count > self.limits.max_choices:
            message = f"n: {count} choices in all; at most {self.limits.max_choices}"
            raise ApiError(400, message, param="n")
        names = {body[key] for key in ("session_in", "session_out") if key in body}
        with self.scheduler.admitted(count), self.using(names):
            yield await self._task(body, chat, prompts, count)

    async def _task(self, body, chat, prompts, count) -> Task:
        session, out = await self._session(body), body.get("session_out")
        if out is not None and count > 1:
            raise ApiError(400, "session_out: for one choice alone", param="session_out")
        sampling, stops = self._sampling(body), checked_stops(body.get("stop"))
        if chat:
            return await self._chat(body, session, sampling, stops)
        seeds = self._seeds(body)
        before = () if session is None else session.recent
        most = body.get("max_tokens", 16)
        watch = body.get("inside", False)
        requests = []
        for ids in prompts:
            for seed in seeds:
                text = TextOf(self.tokenizer, (*before, *ids), stops, each="logprobs" in body)
                requests.append(
                    self._request(
                        ids,
                        most,
                        sampling,
                        seed,
                        tuple(body.get("stop_token_ids", ())),
                        text,
                        session=session,
                        keep=out is not None,
                        top=body.get("logprobs"),
                        watch=watch,
                    )
                )
        usage = Usage(sum(len(x.prompt) for x in requests[:: len(seeds)]))
        replace = out is not None and out == body.get("session_in")
        return Task(requests, usage, out=out, replace=replace, inside=watch)

    async def _chat(self, body, session, sampling, stops) -> Task:
        if self.dialogue is None:
            message = f"{self.name} has no format of conversations; use /v1/completions"
            raise ApiError(400, message, param="model")
        messages = body["messages"]
        prompt = sum(len(str(message["content"])) for message in messages)
        if prompt > 8 * self.limits.max_prompt:  # before it is rendered
            raise self._too_long(prompt, "characters")
        try:
            heard = await self.dialogue.hear(self.scheduler, messages, session)
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from error
        if heard.tokens > self.limits.max_prompt:
            raise self._too_long(heard.tokens, "tokens")
        most = body.get("max_completion_tokens", body.get("max_tokens", 512))
        most = min(most, self.limits.max_tokens)
        if most < 1:
            raise ApiError(400, "max_tokens: a reply has 1 or more", param="max_tokens")
        top = body.get("top_logprobs", 0) if body.get("logprobs") else None
        refuse, look = self.refuse_below, body.get("inside", False)
        requests = []
        for seed in self._seeds(body):
            text = TextOf(self.tokenizer, (), (*heard.stops, *stops), each=top is not None)
            ends = (*heard.ends, *body.get("stop_token_ids", ()))
            begun = self.dialogue.reply_session(heard, most)
            how = dict(session=begun, top=top, watch=look or refuse > 0)
            requests.append(self._request(heard.ids, most, sampling, seed, ends, text, **how))
        out = body.get("session_out")
        replace = out is not None and out == body.get("session_in")
        if out is not None and heard.said is None:
            await self.dialogue.answered(self.scheduler, heard, "")  # which says why not
        return Task(requests, Usage(heard.tokens), heard, out, replace, look, refuse)

    async def events(self, task: Task) -> AsyncIterator[tuple[int, Event, list | None]]:
        """Run a task; yield (choice, event, what was seen inside) until all have ended."""
        start, first = time.perf_counter(), True
        refused: set[int] = set()
        self.metrics.prompt_tokens.inc(task.usage.prompt)
        async with self.scheduler.run(*task.choices) as stream:
            async for index, event in stream:
                if event.error:
                    raise ApiError(500, event.error, code="nan")
                if index in refused:
                    continue
                if task.refuse_below > 0 and _answerable(event) < task.refuse_below:
                    refused.add(index)
                    event = Event(event.id, [], [REFUSAL], finish_reason=END)
                task.usage.drawn += len(event.tokens)
                self.metrics.tokens.inc(len(event.tokens))
                if first and (event.tokens or event.last):
                    self.metrics.first.observe(time.perf_counter() - start)
                    first = False
                if event.tokens or event.pieces or event.last:
                    yield index, event, self._seen(task, event)
                if len(refused) == len(task.choices):
                    return

    def _seen(self, task, event):
        if not task.inside or event.watch is None or not event.tokens:
            return None
        texts = [self.tokenizer.decode([token]) for token in event.tokens]
        return inside.told(self.model, event.watch, texts)

    async def keep(self, task: Task, session: Session | None, text: str) -> None:
        """Save the session of a task after its answer, if it asks for that."""
        if task.out is None:
            return
        if task.heard is not None:
            session = await self.dialogue.answered(self.scheduler, task.heard, text)
        session = unwrapped(self.model, session)
        await asyncio.to_thread(self.store.save, task.out, session, replace=task.replace)

    async def _session(self, body) -> Session | None:
        out, name = body.get("session_out"), body.get("session_in")
        if out is not None and out != name:
            await asyncio.to_thread(self.store.must_be_free, out)
        if name is None:
            return None
        return wrapped(self.model, await asyncio.to_thread(self.store.load, name))

    @contextlib.contextmanager
    def using(self, names: set[str]):
        """Make names of sessions unavailable to others."""
        if taken := names & self._in_use:
            message = f"session {min(taken)!r} is in use by another request"
            raise ApiError(409, message, code="session_in_use")
        self._in_use |= names
        try:
            yield
        finally:
            self._in_use -= names

    def _request(self, *args, **options) -> Request:
        try:
            return Request(*args, **options)
        except UserError as error:
            raise ApiError(400, str(error), param="prompt") from error

    def _prompts(self, prompt) -> list[np.ndarray]:
        listed = isinstance(prompt, list) and prompt and isinstance(prompt[0], list | str)
        found = []
        for item in prompt if listed else [prompt]:
            if isinstance(item, str):
                if len(item) > 8 * self.limits.max_prompt:
                    raise self._too_long(len(item), "characters")
                ids = np.asarray(self.tokenizer.encode(item), np.int32)
            else:
                ids = np.asarray(item, np.int64).astype(np.int32)
            if len(ids) > self.limits.max_prompt:
                raise self._too_long(len(ids), "tokens")
            if ids.size and not 0 <= ids.min() <= ids.max() < self.engine.vocab:
                message = f"prompt: ids are 0 to {self.engine.vocab - 1}"
                raise ApiError(400, message, param="prompt")
            found.append(ids)
        return found

    def _too_long(self, count: int, unit: str) -> ApiError:
        message = f"a prompt of {count} {unit}; at most {self.limits.max_prompt} tokens"
        return ApiError(400, message, param="prompt", code="context_length_exceeded")

    def _sampling(self, body) -> Sampling:
        names = [field.name for field in dataclasses.fields(Sampling) if field.name in body]
        try:
            return Sampling(**{name: body[name] for name in names})
        except UserError as error:
            raise ApiError(400, str(error)) from error

    def _seeds(self, body) -> list[int]:
        """Return a seed for each choice; without one in the request, another every time."""
        seed = body["seed"] if "seed" in body else secrets.randbelow(SEEDS)
        return [(seed + i) % SEEDS for i in range(body.get("n", 1))]

    def card(self) -> dict[str, Any]:
        """Return what is told of the model."""
        guided = isinstance(self.model, Guided)
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "jaxmodels",
            "parameters": self.parameters,
            "vocabulary": self.engine.vocab,
            "tokenizer": self.tokenizer.name,
            "chat": self.dialogue is not None,
            "guided": guided,
            "parts": inside.parts(self.model),
            "max_tokens": self.limits.max_tokens,
            "max_prompt": self.limits.max_prompt,
        }


def _answerable(event: Event) -> float:
    """Return RNK's probability of being able to answer, as of an event's last token."""
    seen = event.watch
    return float(seen["answerable"][-1]) if seen is not None and len(seen["answerable"]) else 1.0
