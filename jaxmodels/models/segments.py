"""Language models whose layers differ: layers of one repeating pattern are scanned as one.

A program then grows with the number of different stretches, not with depth.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.base import Cell
from jaxmodels.models.language import LanguageModel, layer_of, stack


def segments_of(kinds) -> list[tuple[tuple[str, ...], int]]:
    """Kinds of layers as (pattern, repeats), each the longest run of a pattern of up to 4 layers.

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


def joined(layers: list, kinds) -> nnx.List:
    """Layers in order of depth as `Segmented` keeps them."""
    at, segments = 0, []
    for pattern, repeats in segments_of(kinds):
        made = layers[at : at + len(pattern) * repeats]
        places = [stack(made[place :: len(pattern)]) for place in range(len(pattern))]
        segments.append(nnx.List(places))
        at += len(made)
    return nnx.List(segments)


class Segmented(LanguageModel):
    """A `LanguageModel` with layers of several kinds; a subclass gives `kinds`.

    `layers[segment][place]` holds the layers of a place in a segment's pattern, joined by `stack`;
    the state is nested likewise, with batch first and repeats second.
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer."""
        raise NotImplementedError

    def initial_state(self, batch_size: int):
        """The layers' states before the first token; leaves (batch, repeats, ...) float32."""

        def fresh(layers):
            state = jax.vmap(lambda layer: layer.initial_state(batch_size))(layers)
            return jax.tree.map(lambda x: x.swapaxes(0, 1), state)

        return tuple(tuple(fresh(place) for place in segment) for segment in self.layers)

    def layer(self, index: int) -> Cell:
        """One layer by its depth."""
        segment, place, repeat = self._where(index)
        return layer_of(self.layers[segment][place], repeat)

    def layer_state(self, state, index: int):
        """The state of one layer; leaves (batch, ...)."""
        segment, place, repeat = self._where(index)
        return jax.tree.map(lambda x: x[:, repeat], state[segment][place])

    def nested(self, states: list):
        """States by layer as the state of the model."""
        at, segments = 0, []
        for pattern, repeats in segments_of(self.kinds):
            part, places = states[at : at + len(pattern) * repeats], len(pattern)
            segments.append(tuple(_stacked(part[place::places]) for place in range(places)))
            at += len(part)
        return tuple(segments)

    def _where(self, index):
        if not 0 <= index < self.config.num_layers:
            raise IndexError(index)
        for segment, (pattern, repeats) in enumerate(segments_of(self.kinds)):
            if index < len(pattern) * repeats:
                return segment, index % len(pattern), index // len(pattern)
            index -= len(pattern) * repeats

    def _through(self, run, state, xs):
        """All layers, a scan a segment; run(layer, state, xs) -> (state, ys)."""

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
