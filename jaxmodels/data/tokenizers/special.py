"""Special token ids shared by the answer tokenizers, the row layouts and HRLM."""

import numpy as np

PAD, EOS, UNK, SEP = 0, 1, 2, 3
SPECIALS = ("<pad>", "<eos>", "<unk>", "<sep>")


def until_eos(tokens) -> list[int]:
    """Return the ids before the first EOS."""
    ids = [int(token) for token in np.asarray(tokens).ravel()]
    return ids[: ids.index(EOS)] if EOS in ids else ids
