"""Construction of tokenizers: fitted on texts by name, or read from their JSON description."""

import json
from collections.abc import Sequence

from jaxmodels.cli import choose_from, did_you_mean
from jaxmodels.data.tokenizers.answers import (
    LATIN_CHARSET,
    SEED_CHARSET,
    TAB_CHARSET,
    AnswerCharTokenizer,
    HybridTokenizer,
)
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.grid import GridTokenizer, IdTokenizer
from jaxmodels.data.tokenizers.huggingface import HuggingFaceTokenizer
from jaxmodels.data.tokenizers.marked import MarkedTokenizer
from jaxmodels.data.tokenizers.rwkv_world import RWKVWorldTokenizer
from jaxmodels.data.tokenizers.special import SPECIALS
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json

CHARSETS = {"answer_char": LATIN_CHARSET, "seed_char": SEED_CHARSET, "tab_char": TAB_CHARSET}
TEXT_TOKENIZERS = (*CHARSETS, "hybrid", "bpe")
KINDS = {
    tokenizer.name: tokenizer
    for tokenizer in (
        ByteTokenizer,
        CharTokenizer,
        WordTokenizer,
        AnswerCharTokenizer,
        HybridTokenizer,
        BPETokenizer,
        GridTokenizer,
        IdTokenizer,
        RWKVWorldTokenizer,
    )
}


def fit_tokenizer(name: str, texts: Sequence[str], max_tokens: int) -> Tokenizer:
    """Return one of TEXT_TOKENIZERS, fitted.

    Args:
      texts: texts of the training split; fixed character sets ignore them.
      max_tokens: vocabulary size of "hybrid" and "bpe".
    """
    if name in CHARSETS:
        return AnswerCharTokenizer(CHARSETS[name])
    if name == "hybrid":
        smallest = len(SPECIALS) + len(LATIN_CHARSET) + 1
        if max_tokens < smallest:
            raise UserError(f"max_tokens: hybrid needs {smallest} or more, got {max_tokens}")
        return HybridTokenizer.fit(texts, max_words=max_tokens - smallest + 1)
    if name == "bpe":
        return BPETokenizer.fit(texts, vocab_size=max_tokens)
    raise UserError(f"tokenizer: unknown {name!r}{did_you_mean(name, TEXT_TOKENIZERS)}")


def tokenizer_from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `to_json` described, or that of a Hugging Face tokenizer.json.

    Raises:
      UserError: anything else.
    """
    try:
        fields = decode_json(text)
        json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair is no text
        foreign = "kind" not in fields and "model" in fields
        kind = "huggingface" if foreign else fields["kind"]
        if kind == "marked":
            return MarkedTokenizer(tokenizer_from_json(json.dumps(fields["inner"])))
        if kind in KINDS:
            return KINDS[kind](**{name: fields[name] for name in KINDS[kind].described()})
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"not a tokenizer description ({reason}): expected what to_json() wrote"
        ) from error
    if foreign:
        return HuggingFaceTokenizer(text)
    raise UserError(f"unknown tokenizer kind {kind!r}{choose_from(KINDS)}")
