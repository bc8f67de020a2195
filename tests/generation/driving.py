"""Small models and a driver of engines for the tests."""

import jax
import numpy as np

import jaxmodels
from jaxmodels.generation.engine import Engine
from jaxmodels.generation.request import Completion, Request
from jaxmodels.generation.sampling import Sampling
from jaxmodels.testing.lab import shaken
from tests.models.rnk.small import small_model

TINY = {"vocab_size": 64, "width": 16, "num_layers": 2}
SIZES = {"slots": 3, "piece": 8, "many": 5, "few": 2}  # with remainders everywhere
KINDS = ("rwkv", "mamba", "transformer", "rnk")


def tiny(kind):
    if kind == "rnk":
        return small_model(vocab_size=64)
    fields = {"window": 12} if kind == "transformer" else {}
    return shaken(jaxmodels.create(kind, seed=0, **TINY, **fields), 0)


def ids(length, seed=0, vocab=61):
    return np.random.default_rng(seed).integers(0, vocab, length).astype(np.int32)


def engine_of(model, **options):
    return Engine(model, **(SIZES | options))


def drive(engine, requests, starts=None):
    """Completions of requests, each submitted before the call of its number in `starts`."""
    starts = starts or [0] * len(requests)
    by_id, results, call = {}, {}, 0
    while not engine.idle or len(by_id) < len(requests):
        for index, request in enumerate(requests):
            if starts[index] == call:
                by_id[engine.submit(request)] = index
                text = None if request.text is None else ""
                results[index] = Completion(len(request.prompt), text=text)
        for event in engine.advance():
            results[by_id[event.id]].add(event)
        call += 1
    return [results[index] for index in range(len(requests))]


def one(engine, *args, **options):
    return drive(engine, [Request(*args, **options)])[0]


def same(a, b):
    """Whether two completions are equal bit for bit, states included."""
    plain = ("tokens", "text", "logprobs", "top_logprobs", "finish_reason")
    if any(getattr(a, name) != getattr(b, name) for name in plain):
        return False
    return (a.session is None) == (b.session is None) and (
        a.session is None or same_session(a.session, b.session)
    )


def same_session(a, b):
    if (a.tokens_read, a.drawn) != (b.tokens_read, b.drawn):
        return False
    x, y = (jax.tree.leaves((s.state, s.logits)) for s in (a, b))
    return all(np.array_equal(i, j) for i, j in zip(x, y, strict=True))


def mixed(count=7):
    """Arguments of requests of different lengths and options."""
    samplings = [
        Sampling(0.0),
        Sampling(1.0),
        Sampling(0.9, top_k=5),
        Sampling(1.2, top_p=0.7),
        Sampling(1.0, min_p=0.1, repetition_penalty=3.0),
    ]
    lengths, most = (1, 30, 8, 9, 6, 17, 24), (11, 4, 1, 9, 6, 20, 0)
    return [
        dict(
            prompt=ids(lengths[i % 7], i),
            max_tokens=most[i % 7],
            sampling=samplings[i % 5],
            seed=i,
            keep=True,
            top=3 if i % 2 else None,
            end_tokens=tuple(range(3, 64, 8)) if i % 3 else (),
        )
        for i in range(count)
    ]
