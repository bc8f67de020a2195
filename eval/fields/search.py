"""Latency of a prediction against the number of tensors, and recall of the candidates (F-12)."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from eval.fields.collect import collect
from eval.fields.loop import seconds_of
from jaxmodels.cells.hypertensor import Field, combine, random_field, read
from jaxmodels.cells.hypertensor.candidates import (
    SAMPLE,
    build_quantizer,
    candidates,
    recall,
)
from jaxmodels.cells.hypertensor.relocation import BANDS, CENTRE
from jaxmodels.data import load_corpus, subsample
from jaxmodels.errors import UserError

QUERIES, CALLS, BATCH = 512, 40, 64


def contexts(count: int) -> np.ndarray:
    """Return projected contexts of the default corpus, byte by byte: float16 (count, 512)."""
    model = jaxmodels.create("hft", seed=0, tensors=64, relocated=1)
    speeches = load_corpus().train
    some = subsample(speeches, int(1.01 * count) + 2 * len(speeches))  # of every speech a part
    return np.concatenate([x.astype(np.float16) for x, _ in collect(model, some)])[:count]


def latency(
    sizes: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Return, for each N: milliseconds of a prediction, exact and by candidates, and recall at K.

    Raises:
      UserError: a size below 256.
    """
    if min(sizes) < 256:
        raise UserError(f"--sizes must be 256 or more, got {min(sizes)}")
    x, rows = contexts(max(sizes) + QUERIES), []
    x = x[np.random.default_rng(0).permutation(len(x))]
    queries = jnp.asarray(x[-QUERIES:], jnp.float32)
    for done, tensors in enumerate(sizes):
        rows.append(_at(tensors, x[:tensors], queries))
        if progress:
            progress(done + 1, len(sizes))
    return rows


def _at(tensors: int, x: np.ndarray, queries) -> dict[str, Any]:
    c = jaxmodels.make_config("hft", tensors=tensors, search="cells")
    field = _field_at(c.predictor, x)
    start = time.perf_counter()
    build = jax.jit(lambda f, key: build_quantizer(c.predictor, f, c.cells, key))
    quantizer = jax.block_until_ready(build(field, jax.random.key(0)))
    built = time.perf_counter() - start

    def exact(field, _, x):
        reading = read(c.predictor, field, x, sparse=True)
        return combine(field, reading), reading.index

    def in_cells(field, quantizer, x):
        near = candidates(quantizer, x, c.probes)
        reading = read(c.predictor, field, x, candidates=near)
        return combine(field, reading), reading.index

    row: dict[str, Any] = {"tensors": tensors, "cells": c.cells, "lost": int(quantizer.lost)}
    found = {}
    for name, function in (("exact", exact), ("cells", in_cells)):
        call = jax.jit(function)
        found[name] = np.asarray(call(field, quantizer, queries)[1])
        row[f"{name}_ms"] = _milliseconds(
            lambda i, call=call: call(field, quantizer, queries[i : i + 1]), CALLS
        )
        row[f"{name}_ms_in_batches"] = (
            _milliseconds(lambda i, call=call: call(field, quantizer, queries[:BATCH]), 5) / BATCH
        )
    row["recall"] = float(recall(found["cells"], found["exact"]))
    row["seconds_building"] = round(built, 2)
    return row | _faiss(c, field, np.asarray(queries), found["exact"])


def _field_at(config, x: np.ndarray) -> Field:
    """Return a random field whose anchors are those of tensors planted at contexts x (N, d)."""
    field = jax.jit(lambda key: random_field(config, key))(jax.random.key(0))
    length = np.linalg.norm(x.astype(np.float32), axis=1)
    return field.replace(
        normal=jnp.asarray(x / length[:, None], config.dtype),
        offset=jnp.asarray(-CENTRE * length, config.dtype),
        bands=jnp.asarray(length[:, None] * np.array([BANDS]), config.dtype),
    )


def _milliseconds(call, count: int) -> float:
    jax.block_until_ready(call(0))  # compiled
    return 1e3 * statistics.median(seconds_of(lambda i: jax.block_until_ready(call(i)), count))


def _faiss(c, field: Field, queries: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Return latency and recall of faiss, with as many cells and probes; {} without it."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    anchors = -np.asarray(field.offset, np.float32)[:, None] * np.asarray(field.normal, np.float32)
    k, width = c.predictor.nearest, anchors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, c.cells)
    # As many rounds of k-means, on as many samples, as our own.
    index.cp.niter, index.cp.max_points_per_centroid = 10, max(SAMPLE // c.cells, 1)
    index.cp.min_points_per_centroid = 1
    start = time.perf_counter()
    index.train(anchors)
    index.add(anchors)
    built, index.nprobe = time.perf_counter() - start, c.probes
    flat = faiss.IndexFlatL2(width)
    flat.add(anchors)
    found = index.search(queries, k)[1]
    one = seconds_of(lambda i: index.search(queries[i : i + 1], k), CALLS)
    whole = seconds_of(lambda i: flat.search(queries[i : i + 1], k), CALLS)
    return {
        "faiss_recall": float(recall(found, exact)),
        "faiss_recall_exact": float(recall(flat.search(queries, k)[1], exact)),
        "faiss_ms": 1e3 * statistics.median(one),
        "faiss_exact_ms": 1e3 * statistics.median(whole),
        "faiss_seconds_building": round(built, 2),
        "faiss": faiss.__version__,
    }
