"""Tokenizers: bytes, words, characters, BPE, answers and grids."""

from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer, HybridTokenizer
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, StreamingDecoder, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS, fit_tokenizer, tokenizer_from_json
from jaxmodels.data.tokenizers.grid import GridTokenizer
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP, SPECIALS, UNK

__all__ = [
    "EOS",
    "PAD",
    "SEP",
    "SPECIALS",
    "TEXT_TOKENIZERS",
    "UNK",
    "AnswerCharTokenizer",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "GridTokenizer",
    "HybridTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "WordTokenizer",
    "fit_tokenizer",
    "tokenizer_from_json",
]
