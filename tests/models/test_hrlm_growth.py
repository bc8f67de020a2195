"""L-79: how the memory of HRLM grows with its vocabulary and with the length of rows."""

import jax
import pytest

import jaxmodels
from eval.sweep.memory import step_bytes


def parameters(**changes):
    shapes = jax.eval_shape(lambda: jaxmodels.create("hrlm/text", **changes))
    return jaxmodels.count_parameters(shapes)


def test_two_tables_grow_with_the_vocabulary_and_nothing_with_the_length():
    """The source: 10,000 x 768 are 7.68 million numbers a table, 15.36 million in both."""
    small = parameters(vocab_size=1000)
    assert parameters(vocab_size=11_000) - small == 2 * 7_680_000
    assert parameters(vocab_size=1000, seq_len=81) == small


@pytest.mark.slow
def test_attention_grows_with_the_square_of_the_length():
    """The source: 1024^2 scores against 81^2 are 160 times as many. By blocks they are not kept."""
    small = {"width": 8, "head_size": 8, "mlp_multiple": 8, "high_layers": 1, "low_layers": 1}
    small |= {"high_cycles": 1, "low_cycles": 1, "halt_max_steps": 1, "vocab_size": 8}

    def temporaries(length, **fields):
        return step_bytes("hrlm/base", 1, length, False, **small, **fields)["temporaries"]

    whole = {length: temporaries(length, block_size=length) for length in (128, 1024, 2048)}
    blocks = {length: temporaries(length) for length in (1024, 2048)}
    assert (1024 / 81) ** 2 == pytest.approx(160, rel=0.01)
    # Beside the scores there is what grows with the length alone, less of it the longer the rows.
    first, second = whole[1024] / whole[128], whole[2048] / whole[1024]
    print(f"{whole}: 8 times the length {first:.1f}, then twice {second:.2f}; by blocks {blocks}")
    assert 8 < first < 64 and 3.3 < second < 4.05
    assert blocks[2048] < 2.6 * blocks[1024] and blocks[2048] < whole[2048] / 4
