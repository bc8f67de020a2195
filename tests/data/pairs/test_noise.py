"""Noise in questions: how much of it, where, and that answers and layouts stay as they are."""

import numpy as np
import pytest

from jaxmodels.data.pairs.layout import lay_out
from jaxmodels.data.pairs.noise import noisy_question, question_noise
from jaxmodels.data.random import random_words
from jaxmodels.data.tokenizers.special import EOS, SEP, UNK
from tests.train.tasks.test_answers import text_config
from train.config import apply_overrides
from train.tasks import open_task

SIZE, LENGTH = 40, 64
QUESTION = np.arange(10, 10 + SIZE)  # all tokens distinct


@pytest.mark.parametrize("mode", ["nar", "prefix_ar", "as_written"])
def test_only_the_question_is_noisy(mode):
    """L-40: in every layout, separator, answer, end and labels are as before."""
    row = lay_out(QUESTION, [7, 8, 9], mode, LENGTH)
    swapped = blanked = 0
    for number in range(200):
        words = random_words(0, number, 2 * LENGTH)
        inputs, targets = noisy_question(words, row.inputs, row.targets, 0.1)
        assert (targets == row.targets).all() and (inputs[SIZE:] == row.inputs[SIZE:]).all()
        kept = inputs[:SIZE][inputs[:SIZE] != UNK]
        assert len(set(kept)) == len(kept) and set(kept) <= set(QUESTION)
        places = kept - 10 - np.flatnonzero(inputs[:SIZE] != UNK)
        assert np.abs(places).max() <= 1  # a token moves by one place
        swapped += (places == 1).sum()
        blanked += (inputs[:SIZE] == UNK).sum()
    assert swapped / 200 / SIZE == pytest.approx(0.9 * 0.1 * 0.92, rel=0.15)
    assert blanked / 200 / SIZE == pytest.approx(0.1, rel=0.1)
    assert (lay_out(QUESTION, [7, 8, 9], mode, LENGTH).inputs == row.inputs).all()


def test_control_tokens_stay():
    row = np.array([10, EOS, 11, SEP, 12, 13])
    for number in range(50):
        noisy, _ = noisy_question(random_words(0, number, 12), row, row, 0.9)
        assert noisy[1] == EOS and (noisy[3:] == row[3:]).all()
    quiet = question_noise(0.0, 6)
    assert (quiet.apply(random_words(0, 0, quiet.words), row, row)[0] == row).all()


def test_noise_from_a_config():
    """L-40: training rows are noisy, differently each time and reproducibly; validation is not."""
    config = text_config(examples=200, skip_long=True)
    plain = open_task(config)
    apply_overrides(config, ["--config.data.augment=true", "--config.data.augment_rate=0.3"])
    noisy, again = open_task(config), open_task(config)
    count = 2 * round(plain.steps_per_epoch)
    first, second, third = (
        [batch["inputs"] for batch, _ in zip(task.train, range(count), strict=False)]
        for task in (plain, noisy, again)
    )
    changed = np.mean([(a != b).any(1).mean() for a, b in zip(first, second, strict=True)])
    assert changed > 0.8
    assert all((a == b).all() for a, b in zip(second, third, strict=True))
    for before, after in zip(plain.valid, noisy.valid, strict=True):
        np.testing.assert_array_equal(before["inputs"], after["inputs"])
