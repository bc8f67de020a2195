"""A trained model on one sentence: its trace as pictures, and a sample of its text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from matplotlib.figure import Figure

from eval.report import figures
from eval.report.document import Block, Heading, Picture
from eval.run import Run, markov_baselines
from eval.sample import sample
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of

# What each array of `model.trace` is, where the name alone would not say it.
CAPTIONS = {
    "relations": "Relation tensor R_t over a sentence of the validation text, byte by byte. A row "
    "is a slot and role: its vector's projection on the direction in which it varies most, around "
    "its mean.",
    "causal_mask": "Row-stochastic mask C_t after some of those bytes: how much each slot (row) "
    "reads from each other one (column). Before the text it is the identity.",
    "read": "The same mask over the whole sentence: how much each slot is read, averaged over the "
    "readers.",
    "log2_loss": "Bits paid for each byte of the sentence, given the bytes before it.",
    "abstraction_norms": "Norm of each abstraction layer over the same sentence.",
}
UNITS = {"log2_loss": "bits", "abstraction_norms": "norm of layer"}


@dataclass(frozen=True)
class Inspection:
    """The part of a report that needs the model or its text.

    Attributes:
        baselines: split -> name -> bits per byte.
        step: number of updates of the parameters that were inspected; None = no model was.
        labels: of the time steps of a sentence.
        trace: arrays of `model.trace` over it, leading axis time.
        sample: (prompt, generated text), or None.
        missing: what could not be inspected and why, one sentence each.
    """

    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    step: int | None = None
    labels: Sequence[str] = ()
    trace: Mapping[str, np.ndarray] = field(default_factory=dict)
    sample: tuple[str, str] | None = None
    missing: Sequence[str] = ()


def inspect_model(
    run: Run, baselines: Mapping[str, Mapping[str, float]] | None = None
) -> Inspection:
    """Trace a loaded run over a sentence, sample from it, and fit baselines unless given."""
    missing: list[str] = []
    if not baselines:
        try:
            baselines = markov_baselines(run.corpus)
        except UserError as error:
            missing.append(f"No baselines: {error}")
    tokens, labels = sentence(run.corpus)
    traits = traits_of(run.model)
    trace = jax.jit(_trace)(run.model, tokens) if traits.trace else {}
    text = None
    if traits.step:
        prompt = run.corpus.tokenizer.decode(tokens[: len(tokens) // 2])
        text = prompt, "".join(sample(run.model, run.corpus.tokenizer, prompt, tokens=400))
    return Inspection(baselines or {}, run.step, labels, trace, text, missing)


def _trace(model, tokens):
    return model.trace(tokens)


def sentence(corpus, longest: int = 76) -> tuple[np.ndarray, list[str]]:
    """Pick a sentence of the validation text: tokens int32 (time,), and a visible label of each."""
    document = (corpus.valid or corpus.train)[0].tokens[:20000]
    if corpus.tokenizer.name != "byte":
        tokens = np.asarray(document[:24], np.int32)
        return tokens, [corpus.tokenizer.decode([token]) for token in tokens]
    data = document.astype(np.uint8).tobytes()
    match = re.search(rb"(?<=[.!?] )[A-Z][^.!?\n]{38,%d}[.!?]" % (longest - 2), data)
    chosen = match[0] if match else data[:longest]
    return np.frombuffer(chosen, np.uint8).astype(np.int32), [_visible(byte) for byte in chosen]


def _visible(byte: int) -> str:
    if byte in (9, 10, 13, 32):
        return {9: "⇥", 10: "↵", 13: "↵", 32: "␣"}[byte]
    return chr(byte) if 32 < byte < 127 else f"{byte:02x}"


def sections(found: Inspection) -> list[Block]:
    """Draw each array of the trace."""
    blocks: list[Block] = []
    known = {name: rank for rank, name in enumerate(CAPTIONS)}
    for name in sorted(found.trace, key=lambda name: (known.get(name, len(known)), name)):
        array = np.asarray(found.trace[name], float)
        caption = CAPTIONS.get(name, f"`{name}` over a sentence of the validation text.")
        for suffix, figure, own in pictures(name, array, list(found.labels)):
            text = CAPTIONS.get(own, caption)
            blocks.append(Picture(figures.svg(figure, f"{name}{suffix}"), text))
    title = f"Inside the model at step {found.step}, over a sentence"
    return [Heading(title), *blocks] if blocks else []


def pictures(name: str, array: np.ndarray, labels: list[str]) -> Iterator[tuple[str, Figure, str]]:
    """Draw an array with leading axis time: yields (suffix, figure, name of its caption)."""
    time = len(labels)
    if array.ndim == 0 or not time - 1 <= array.shape[0] <= time or not np.isfinite(array).all():
        return
    labels = labels[time - array.shape[0] :]  # what is said of the next byte lacks the first
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
        yield (
            "",
            figures.moments(array[picks], titles, ylabel=axes[0], xlabel=axes[1], signed=signed),
            name,
        )
        if name == "causal_mask":
            read = array.mean(1)
            yield "-read", figures.over_text(read, labels, ylabel="slot read from"), "read"
    else:
        rows = leading_component(array.reshape(len(array), -1, array.shape[-1]))
        yield "", figures.over_text(rows, labels, ylabel="slot x role", signed=True), name


def leading_component(vectors: np.ndarray) -> np.ndarray:
    """Project each row's vector on the axis of its largest variance over time, around its mean.

    vectors: (time, rows, width) -> (time, rows). The sign, which is free, is chosen so that the
    largest deviation is positive.
    """
    centred = vectors - vectors.mean(0, keepdims=True)
    left, sizes, _ = np.linalg.svd(centred.transpose(1, 0, 2), full_matrices=False)
    along = (left[..., 0] * sizes[:, :1]).T
    largest = np.take_along_axis(along, np.abs(along).argmax(0)[None], 0)
    return along * np.where(largest < 0, -1.0, 1.0)
