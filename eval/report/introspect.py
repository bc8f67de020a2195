"""Inspection of a trained model: its trace over a sentence as pictures, and a text sample."""

import re
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from matplotlib.figure import Figure

from eval.report import figures
from eval.report.document import Block, Heading, Picture, Sample
from eval.run import Run
from eval.sample import sample
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from train.io.checkpoint import load_model, saved_steps

EARLIER = 5  # other checkpoints, of which a sample is shown

# Captions for the arrays of `model.trace`.
CAPTIONS = {
    "relations": "Relation tensor R_t over a sentence of the validation text, byte by byte. Each "
    "row is a slot and role: the projection of its centred vector on the first principal axis.",
    "causal_mask": "Row-stochastic mask C_t after some of those bytes: weight with which each slot "
    "(row) reads each other slot (column). Before the text it is the identity.",
    "read": "The mask over the whole sentence: weight with which each slot is read, averaged over "
    "the readers.",
    "log2_loss": "Loss of each byte of the sentence in bits, given the bytes before it.",
    "answering": "Effective number of tensors that answer at each byte, 1 / sum of their squared "
    "weights.",
    "nearest": "Distance of each context to the nearest anchor.",
    "abstraction_norms": "Norm of each abstraction layer over the sentence.",
}
UNITS = {
    "log2_loss": "bits",
    "answering": "tensors",
    "nearest": "distance",
    "abstraction_norms": "norm of layer",
}


def inspect_model(run: Run) -> list[Block]:
    """Return pictures of the trace over a sentence and a text sample, if the model has them."""
    tokens, labels = sentence(run.corpus)
    traits, blocks = traits_of(run.model), []
    if traits.trace:
        trace = jax.jit(lambda model, tokens: model.trace(tokens))(run.model, tokens)
        if drawn := list(trace_pictures(trace, labels)):
            blocks = [Heading(f"Inside the model at step {run.step}, over a sentence"), *drawn]
    if traits.step:
        prompt = run.corpus.tokenizer.decode(tokens[: len(tokens) // 2])
        text = "".join(sample(run.model, run.corpus.tokenizer, prompt, tokens=400))
        blocks += [Heading(f"A sample at step {run.step}"), Sample(text, prompt)]
        blocks += _earlier(run, prompt)
    return blocks


def _earlier(run: Run, prompt: str) -> list[Block]:
    """Return samples, from the same prompt and seed, of other checkpoints, evenly chosen."""
    blocks: list[Block] = []
    others = [step for step in saved_steps(run.workdir) if step != run.step]
    places = np.linspace(0, len(others) - 1, min(EARLIER, len(others)), dtype=int)
    for step in (others[place] for place in places):
        try:
            other = load_model(run.workdir, step, say=lambda text: None)
        except UserError:  # damaged; the run's own checks tell so
            continue
        text = "".join(sample(other.model, run.corpus.tokenizer, prompt, tokens=200))
        loss = "" if other.loss is None else f", validation loss {other.loss:.3f}"
        blocks += [Heading(f"The same at step {step}{loss}"), Sample(text, prompt)]
    return blocks


def sentence(corpus, longest: int = 76) -> tuple[np.ndarray, list[str]]:
    """Return tokens int32 (time,) of a validation sentence, and a visible label for each."""
    document = (corpus.valid or corpus.train)[0].tokens[:20000]
    if corpus.tokenizer.name != "byte":
        tokens = np.asarray(document[:24], np.int32)
        return tokens, [corpus.tokenizer.decode([token]) for token in tokens]
    data = document.astype(np.uint8).tobytes()
    match = re.search(rb"(?<=[.!?] )[A-Z][^.!?\n]{38,%d}[.!?]" % (longest - 2), data)
    text = match[0] if match else data[:longest]
    return np.frombuffer(text, np.uint8).astype(np.int32), [_visible(byte) for byte in text]


def _visible(byte: int) -> str:
    if byte in (9, 10, 13, 32):
        return {9: "⇥", 10: "↵", 13: "↵", 32: "␣"}[byte]
    return chr(byte) if 32 < byte < 127 else f"{byte:02x}"


def trace_pictures(trace: Mapping[str, np.ndarray], labels: list[str]) -> Iterator[Picture]:
    """Yield a picture of each array of a trace, leading axis time."""
    ranks = {name: rank for rank, name in enumerate(CAPTIONS)}
    for name in sorted(trace, key=lambda name: (ranks.get(name, len(ranks)), name)):
        caption = CAPTIONS.get(name, f"`{name}` over a sentence of the validation text.")
        for suffix, figure, key in pictures(name, np.asarray(trace[name], float), labels):
            svg = figures.svg(figure, f"{name}{suffix}")
            yield Picture(svg, CAPTIONS.get(key, caption))


def pictures(name: str, array: np.ndarray, labels: list[str]) -> Iterator[tuple[str, Figure, str]]:
    """Draw an array with leading axis time; yield (suffix, figure, name of its caption)."""
    time = len(labels)
    if array.ndim == 0 or not time - 1 <= array.shape[0] <= time or not np.isfinite(array).all():
        return
    labels = labels[time - array.shape[0] :]  # predictions start at the second token
    title = name.replace("_", " ")
    signed = bool((array < 0).any())
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] <= len(figures.SERIES)):
        columns = array.reshape(len(array), -1).T
        lines = {f"{row}": values for row, values in enumerate(columns)}
        yield "", figures.along_text(lines, labels, ylabel=UNITS.get(name, title)), name
    elif array.ndim == 2:
        yield "", figures.over_text(array, labels, ylabel=title, signed=signed), name
    elif array.ndim == 3:
        picks = np.unique(np.linspace(0, len(array) - 1, min(10, len(array))).round().astype(int))
        titles = [f"{pick + 1}: “{labels[pick]}”" for pick in picks]
        axes = ("read by", "read from") if name == "causal_mask" else ("", "")
        labelled = {"ylabel": axes[0], "xlabel": axes[1], "signed": signed}
        yield "", figures.moments(array[picks], titles, **labelled), name
        if name == "causal_mask":
            read = array.mean(1)
            yield "-read", figures.over_text(read, labels, ylabel="slot read from"), "read"
    else:
        rows = leading_component(array.reshape(len(array), -1, array.shape[-1]))
        yield "", figures.over_text(rows, labels, ylabel="slot x role", signed=True), name


def leading_component(vectors: np.ndarray) -> np.ndarray:
    """Project each row's centred vectors on their first principal axis over time.

    vectors: (time, rows, width) -> (time, rows). The sign is chosen so that the largest deviation
    is positive.
    """
    centred = vectors - vectors.mean(0, keepdims=True)
    left, sizes, _ = np.linalg.svd(centred.transpose(1, 0, 2), full_matrices=False)
    along = (left[..., 0] * sizes[:, :1]).T
    largest = np.take_along_axis(along, np.abs(along).argmax(0)[None], 0)
    return along * np.where(largest < 0, -1.0, 1.0)
