"""A two-layer GroundThink and a text, shared so that each program is compiled once."""

import jaxmodels
from jaxmodels.data.tokenizers.char import CharTokenizer

TEXT = "The key is in the box of the knight. And then the ship abcdefghij went to sea!\n" * 30
TOKENIZER = CharTokenizer.fit([TEXT])
SMALL = dict(width=16, head_size=8, num_layers=2, state_dim=4, chunk_size=16)
SMALL |= dict(channel_expansion=1.0, attn_window=16, write_gate=True, init="spread")


def small_model(**changes):
    """Build a hybrid layer followed by the anchor."""
    return jaxmodels.create("groundthink", vocab_size=TOKENIZER.vocab_size, **SMALL | changes)
