"""`jaxmodels.generate`: continue prompts, one or many, whole or as a stream."""

from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.generation.engine import PIECE, Engine
from jaxmodels.generation.request import Completion, Event, Request, Session
from jaxmodels.generation.sampling import Sampling
from jaxmodels.generation.text import TextOf, checked_stops

MOST_SLOTS = 64


def generate(
    model,
    prompts,
    max_tokens: int = 100,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] | None = None,
    end_tokens: Sequence[int] = (),
    seed: int | Sequence[int] = 0,
    logprobs: int | None = None,
    tokenizer=None,
    stream: bool = False,
    sessions: Session | Sequence[Session | None] | None = None,
    keep: bool = False,
    slots: int | None = None,
    piece: int = PIECE,
) -> Completion | list[Completion] | Iterator[tuple[int, Event]]:
    """Continue prompts with a left-to-right language model.

    The tokens of a prompt do not depend on the other prompts. Programs are compiled once for a
    model, `slots` and `piece`, whatever the lengths and options.

    Args:
      model: see `jaxmodels.models.contract`; it has a `step`.
      prompts: a text or token ids, or a list of texts or of lists of ids, of different lengths;
        texts need a tokenizer; [] goes on after a single session.
      max_tokens: most tokens to draw for a prompt.
      temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`.
      stop: one or several strings, before the first of which the text ends; needs a tokenizer.
      end_tokens: ids that end the text and do not belong to it.
      seed: below 2^32, for every prompt, or one for each: the n-th drawn token of a prompt depends
        on the seed and n.
      logprobs: give the log-probability of every drawn token and of so many of the most likely
        ones (0 to 20); None = none.
      tokenizer: see `jaxmodels.data.tokenizers.base`; with it, results have text.
      stream: return an iterator of (index of the prompt, `Event`) instead, as tokens are drawn.
      sessions: what was read before, one for each prompt or None.
      keep: give the session after the last token of every result.
      slots: prompts that are decoded at the same time; None = as many as there are, rounded up to
        a power of two, at most 64. Results are the same bit for bit where it is the same.
      piece: tokens of a prompt that are read at a time.

    Returns:
      a `Completion` for one prompt, a list of them for several.

    Raises:
      UserError: an invalid option, an empty prompt without a session, an id outside the vocabulary,
        or a model that computes NaN.
    """
    many, items = _listed(prompts)
    if not items and isinstance(sessions, Session):
        many, items = False, [()]  # goes on where the session ends
    if tokenizer is None and (stop or any(isinstance(item, str) for item in items)):
        raise UserError("tokenizer: needed for prompts that are text, and for stop strings")
    several = isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str)
    seeds = list(seed) if several else [seed] * len(items)
    begun = list(sessions) if isinstance(sessions, Sequence) else [sessions] * len(items)
    if not all(x is None or isinstance(x, Session) for x in begun):
        raise UserError("sessions: give the `session` of results, which have it with keep=True")
    if not isinstance(end_tokens, Sequence | np.ndarray) or isinstance(end_tokens, str):
        raise UserError(f"end_tokens={end_tokens!r}: give a list of ids")
    for name, values in (("seed", seeds), ("sessions", begun)):
        if len(values) != len(items):
            raise UserError(f"{name}: {len(values)} for {len(items)} prompts; give one for each")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops = checked_stops(stop)
    requests = []
    for item, seed, session in zip(items, seeds, begun, strict=True):
        ids = np.asarray(tokenizer.encode(item)) if isinstance(item, str) else item
        before = () if session is None else session.recent
        text = None if tokenizer is None else TextOf(tokenizer, (*before, *ids), stops)
        options = dict(session=session, keep=keep, top=logprobs)
        requests.append(
            Request(ids, max_tokens, sampling, seed, tuple(end_tokens), text, **options)
        )
    if slots is None:
        slots = 1 << (min(max(len(items), 1), MOST_SLOTS) - 1).bit_length()
    engine = Engine(model, slots=slots, piece=piece)
    ids = {engine.submit(request): index for index, request in enumerate(requests)}
    if stream:
        return _events(engine, ids)
    results = [Completion(len(x.prompt), text=None if x.text is None else "") for x in requests]
    for index, event in _events(engine, ids):
        results[index].add(event)
    return results if many else results[0]


def _events(engine, ids) -> Iterator[tuple[int, Event]]:
    while not engine.idle:
        for event in engine.advance():
            if event.error:
                raise UserError(event.error)
            yield ids[event.id], event


def _listed(prompts) -> tuple[bool, list]:
    """Return (whether there are several, the prompts)."""
    if isinstance(prompts, str):
        return False, [prompts]
    if isinstance(prompts, np.ndarray | jax.Array) and prompts.ndim == 1:
        return False, [np.asarray(prompts)]
    if not isinstance(prompts, Iterable):
        raise UserError(f"prompts={prompts!r}: give a text, token ids, or a list of these")
    items = list(prompts)
    one = bool(items) and all(isinstance(item, int | np.integer) for item in items)
    return (False, [items]) if one else (True, items)
