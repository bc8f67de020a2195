"""The tokenizers of questions and answers by name, fitted where they learn from texts."""

from collections.abc import Sequence

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tokenizers.answers import (
    LATIN_CHARSET,
    SEED_CHARSET,
    TAB_CHARSET,
    AnswerCharTokenizer,
    HybridTokenizer,
)
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.byte_word import Tokenizer
from jaxmodels.data.tokenizers.special import SPECIALS
from jaxmodels.errors import UserError

CHARSETS = {"answer_char": LATIN_CHARSET, "seed_char": SEED_CHARSET, "tab_char": TAB_CHARSET}
TEXT_TOKENIZERS = (*CHARSETS, "hybrid", "bpe")


def fit_tokenizer(name: str, pairs: Sequence[Pair], max_tokens: int) -> Tokenizer:
    """One of TEXT_TOKENIZERS.

    Args:
      pairs: those of training; sets of characters are fixed and do not look at them.
      max_tokens: size of the vocabulary of "hybrid" and "bpe".
    """
    if name in CHARSETS:
        return AnswerCharTokenizer(CHARSETS[name])
    texts = [text for pair in pairs for text in (pair.question, pair.answer)]
    if name == "hybrid":
        most = max_tokens - len(SPECIALS) - len(LATIN_CHARSET)
        if most < 1:
            raise UserError(
                f"max_tokens: hybrid needs more than {max_tokens - most}, got {max_tokens}"
            )
        return HybridTokenizer.fit(texts, max_words=most)
    if name == "bpe":
        return BPETokenizer.fit(texts, vocab_size=max_tokens)
    raise UserError(f"tokenizer: unknown {name!r}; valid: {', '.join(TEXT_TOKENIZERS)}")
