"""Small tokenizers of the library `tokenizers`, one of each family that published models use."""

from __future__ import annotations

import functools

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.",
    "Héllo wörld, naïve café — «привет» 你好 🙂 🇨🇭",
    "  two  spaces\n\n\tand a tab, don't you see? it's 12345 things",
] * 3


def byte_level() -> Tokenizer:
    """GPT-2's and GPT-NeoX's family, with the added runs of spaces of the latter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("  ", normalized=True), AddedToken("naïve", normalized=False)])
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def split_byte_level() -> Tokenizer:
    """Llama-3's and Qwen's family: a regular expression before the bytes, BOS by template."""
    tokenizer = byte_level()
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    bos = tokenizer.token_to_id("<|endoftext|>")
    template = processors.TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", bos)])
    tokenizer.post_processor = template
    return tokenizer


def steps_after_bytes() -> Tokenizer:
    """A byte-level vocabulary whose decoder does more to the text."""
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama-2's and Mistral's family: "▁" for a space, one before the text, bytes if unknown."""
    specials = ["<unk>", "<s>", "</s>"]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [text.replace(" ", "▁") for text in ("a", "e", "h", "t", "o", "é", "▁", "th", "the")]
    tokens += [*words, "▁t", "▁th", "▁the", "▁▁", "▁a", "n", "▁\ufffd", "\ufffd"]
    merges = [("t", "h"), ("th", "e"), ("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "▁")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(specials)
    return tokenizer


def unigram() -> Tokenizer:
    """T5's and XLNet's family: pieces with likelihoods, unknown characters."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's family: lower case, no accents, "##" inside words; lossy."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def end_of_word() -> Tokenizer:
    """The first BPE's family: "</w>" at the end of a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def no_decoder() -> Tokenizer:
    """Words with spaces put between them."""
    words = ["[UNK]", "the", "fox", "dog", "é"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


FAMILIES = {
    make.__name__: make
    for make in (
        byte_level,
        split_byte_level,
        steps_after_bytes,
        byte_fallback,
        unigram,
        word_piece,
        end_of_word,
        no_decoder,
    )
}


@functools.cache
def family(name: str) -> Tokenizer:
    """Return one of FAMILIES, made once."""
    return FAMILIES[name]()
