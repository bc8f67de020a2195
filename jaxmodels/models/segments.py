"""Base class of language models with several kinds of layers.

Layers of a repeating pattern are scanned, so program size grows with the number of distinct
segments, not with depth.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.base import Cell
from jaxmodels.models.language import LanguageModel, layer_of, stack


def segments_of(kinds) -> list[tuple[tuple[str, ...], int]]:
    """Split layer kinds into (pattern, repeats), greedily by the longest run of up to 4 kinds.

    >>> segments_of(("a", "a", "b", "a", "c", "a", "c"))
    [(('a',), 2), (('b',), 1), (('a', 'c'), 2)]
    """
    segments, at = [], 0
    while at < len(kinds):
        best = (kinds[at : at + 1], 1)
        for period in range(1, 5):
            pattern, repeats = kinds[at : at + period], 1
            while kinds[at + repeats * period : at + (repeats + 1) * period] == pattern:
                repeats += 1
            if repeats > 1 and repeats * period > best[1] * len(best[0]):
                best = (pattern, repeats)
        segments.append(best)
        at += best[1] * len(best[0])
    return segments


def _grouped(items: list, kinds) -> list[list[list]]:
    """Group items of the layers in order of depth as [segment][place in the pattern][repeat]."""
    at, segments = 0, []
    for pattern, repeats in segments_of(kinds):
        part = items[at : at + len(pattern) * repeats]
        segments.append([part[place :: len(pattern)] for place in range(len(pattern))])
        at += len(part)
    return segments


def joined(layers: list, kinds) -> nnx.List:
    """Stack layers, given in order of depth, in the layout of `Segmented.layers`."""
    return nnx.List([nnx.List(map(stack, places)) for places in _grouped(layers, kinds)])


class Segmented(LanguageModel):
    """Language model with layers of several kinds, `config.kinds` in order of depth.

    `layers[segment][place]` is the stack of layers at one index of the segment's pattern; the state
    has the same nesting, with leaves (batch, repeats, ...).
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer."""
        return self.config.kinds

    def initial_state(self, batch_size: int):
        """Return the layers' initial states; leaves (batch, repeats, ...) float32."""

        def fresh(layers):
            state = jax.vmap(lambda layer: layer.initial_state(batch_size))(layers)
            return jax.tree.map(lambda x: x.swapaxes(0, 1), state)

        return tuple(tuple(fresh(place) for place in segment) for segment in self.layers)

    def layer(self, index: int) -> Cell:
        """Return the layer at this depth."""
        segment, place, repeat = self._where(index)
        return layer_of(self.layers[segment][place], repeat)

    def layer_state(self, state, index: int):
        """Return the state of the layer at this depth; leaves (batch, ...)."""
        segment, place, repeat = self._where(index)
        return jax.tree.map(lambda x: x[:, repeat], state[segment][place])

    def nested(self, states: list):
        """Return the model's state from a list of layer states."""
        return tuple(tuple(map(_stacked, places)) for places in _grouped(states, self.kinds))

    def _where(self, index):
        if not 0 <= index < self.config.num_layers:
            raise IndexError(index)
        for segment, (pattern, repeats) in enumerate(segments_of(self.kinds)):
            if index < len(pattern) * repeats:
                return segment, index % len(pattern), index // len(pattern)
            index -= len(pattern) * repeats

    def _through(self, run, state, xs):
        """Apply run(layer, state, xs) -> (state, ys) to all layers, one scan per segment."""

        def body(xs, inputs):
            states = []
            for layer, state in zip(*inputs, strict=True):
                state, xs = run(layer, state, xs)
                states.append(state)
            return xs, tuple(states)

        after = []
        for segment, states in zip(self.layers, state, strict=True):
            by_layer = jax.tree.map(lambda x: x.swapaxes(0, 1), states)
            xs, by_layer = jax.lax.scan(body, xs, (tuple(segment), by_layer))
            after.append(jax.tree.map(lambda x: x.swapaxes(0, 1), by_layer))
        return tuple(after), xs


def _stacked(states):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *states)
