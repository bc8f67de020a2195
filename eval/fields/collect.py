"""Collection of full-context vectors and their targets (F-17), projected once a context (F-18)."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxmodels.data import Document, eval_stream
from jaxmodels.models.hft.model import HFT


def collect(
    model: HFT,
    documents: Sequence[Document],
    *,
    batch_size: int = 16,
    seq_len: int = 64,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (features float32 (n, d), targets int32 (n,)) of documents, a pair per batch.

    The last tokens of a batch are handed to the next, so that every context is projected once,
    although contexts overlap.

    Args:
      model: gives the projection.
      documents: text.
      batch_size, seq_len: positions projected together.
    """
    project = jax.jit(lambda model, state, tokens, reset: model.features(state, tokens, reset))
    state = model.initial_state(batch_size)
    stream = eval_stream(documents, batch_size=batch_size, seq_len=seq_len)
    for batch in stream:
        state, x = project(model, state, batch["inputs"], batch["reset"])
        real = batch["weights"].reshape(-1) > 0
        x = np.asarray(x).reshape(-1, x.shape[-1])
        yield x[real], batch["targets"].reshape(-1)[real]
