"""Augmentation of questions in text: blanked and swapped tokens (L-40).

Noising of inputs as in Xie et al. 2017 (arXiv 1703.02573) and in denoising translation (Lample et
al. 2018, arXiv 1711.00043). A question keeps its length, so that its row keeps its layout; answers
and labels are untouched.
"""

import functools

import numpy as np

from jaxmodels.data.pairs.rows import Augmentation
from jaxmodels.data.tokenizers.special import SEP, SPECIALS, UNK


def question_noise(rate: float, seq_len: int) -> Augmentation:
    """Return the augmentation that blanks and swaps tokens of a question, each at this rate."""
    return Augmentation(functools.partial(noisy_question, rate=rate), 2 * seq_len)


def noisy_question(words: np.ndarray, inputs: np.ndarray, targets: np.ndarray, rate: float):
    """Return a row whose question is noisy, and its labels as they are.

    Args:
      words: uint64 (2 seq_len,), random.
      inputs, targets: (seq_len,) of a row in any layout with a separator; what stands before the
        first one is the question, except for control tokens.
      rate: probability that a token changes places with the next, and then, that one is UNK.
    """
    swaps, blanks = (words >> np.uint64(11)).reshape(2, -1) * 2.0**-53 < rate
    noisy, ends = inputs.copy(), np.flatnonzero(inputs == SEP)
    size = int(ends[0]) if len(ends) else 0
    place = 0
    while place + 1 < size:
        if swaps[place] and min(noisy[place], noisy[place + 1]) >= len(SPECIALS):
            noisy[place], noisy[place + 1] = noisy[place + 1], noisy[place]
            place += 1  # no token moves twice
        place += 1
    asked = np.arange(len(inputs)) < size
    noisy[asked & blanks & (noisy >= len(SPECIALS))] = UNK
    return noisy, targets
