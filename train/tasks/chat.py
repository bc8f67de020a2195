"""Chat tasks: conversations, for RNK and every other left-to-right model.

    data.format "chat"     JSON lines `data.paths` (jaxmodels/data/chat/corpora.py), or without them
                           `data.corpora`; split by conversation, no prompt of which training has
    data.tokenizer         "byte"; "char" or "bpe" train and are evaluated, but do not talk

A row is an exchange: its prompt with up to `data.context_turns` turns before it, and the response,
whose tokens and end are the targets. For a model with fixed chunks the prompt fills whole ones.
Rows are independent, so no state is carried.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.data.chat.conversation import split_conversations
from jaxmodels.data.chat.corpora import CORPORA, read_chat, read_corpora
from jaxmodels.data.chat.exchange import ChatCorpus, ChatRows, Exchange, lay_out
from jaxmodels.data.chat.labels import INTENTS
from jaxmodels.data.chat.tokens import check_tokenizer, fitted, unknown_notes
from jaxmodels.data.pairs.rows import evenly_spaced, row_eval_stream, row_stream
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.unused import Unused, share_note
from jaxmodels.errors import UserError
from train.model import model_fields, resolve_vocab
from train.tasks.task import Task, stream_arguments


def open_chat(config: ConfigDict) -> Task:
    """Read the conversations and make the streams; raise UserError if invalid."""
    _check_fit(config)
    corpus = chat_of(config)
    config = resolve_vocab(config, corpus.tokenizer.vocab_size)
    rows = rows_of(config, corpus.train, corpus.tokenizer)
    valid, valid_bytes = _valid_stream(config, corpus) if config.eval_every else (None, 0)
    streams = stream_arguments(config)
    return Task(
        config=config,
        corpus=corpus,
        train=row_stream(rows, seed=config.seed, **streams),
        valid=valid,
        valid_bytes=valid_bytes,
        bytes_per_token=float((rows.sizes.sum() - len(rows.kept)) / rows.inputs.size),
        steps_per_epoch=len(rows.inputs) / config.batch_size,
        fingerprint=corpus.fingerprint(),
        notes=(*corpus.notes, *_left_out(corpus.train, rows)),
    )


def chat_of(config: ConfigDict) -> ChatCorpus:
    """Return the exchanges of an experiment, split, with the tokenizer fitted on the first split.

    Raises:
      UserError: there are no exchanges, or no such tokenizer of them.
    """
    d, unused = config.data, Unused()
    check_tokenizer(d.tokenizer, d.max_tokens)
    if len(d.paths):
        name, intents = Path(d.paths[0]).stem, _model(config)[1]
        columns, limits = tuple(map(str, d.columns)), {"max_unused": d.max_unused, "unused": unused}
        conversations = read_chat(d.paths, intents, columns, **limits)
    elif len(d.corpora):
        name = " + ".join(d.corpora)
        generated = {"examples": d.examples, "digits": d.digits, "seed": config.seed}
        conversations = read_corpora(d.corpora, **generated)
    else:
        raise UserError(
            "config.data: name files of conversations in paths (--data chat.jsonl), or in corpora "
            f"some of {', '.join(CORPORA)}"
        )
    corpus = split_conversations(
        conversations,
        name,
        context_turns=d.context_turns,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        seed=config.seed,
    )
    corpus = fitted(corpus, d.tokenizer, d.max_tokens)
    notes = (*unused.notes(), *unknown_notes(corpus, d.max_unused))
    return dataclasses.replace(corpus, notes=notes)


def rows_of(
    config: ConfigDict, exchanges: list[Exchange] | tuple[Exchange, ...], tokenizer: Tokenizer
) -> ChatRows:
    """Lay out exchanges as the experiment's model reads them; those that do not fit are left out.

    Raises:
      UserError: none fits.
    """
    chunk_size, intents = _model(config)
    return lay_out(exchanges, config.seq_len, chunk_size, intents, tokenizer)


def _left_out(exchanges: Sequence[Exchange], rows: ChatRows) -> tuple[str, ...]:
    """Return lines on the exchanges of training that are no rows, and on turns left out of rows.

    Raises:
      UserError: more than half of the exchanges are left out.
    """
    total, turns = len(exchanges), sum(len(x.turns) for x in exchanges)
    if 2 * len(rows.kept) < total:
        raise UserError(
            f"config.seq_len: {total - len(rows.kept):,} of {total:,} exchanges of training do not "
            f"fit in {rows.inputs.shape[1]} tokens; raise it"
        )
    why = "that do not fit in config.seq_len, or whose response has unknown symbols"
    return (
        *share_note(f"exchanges of train {why}", total - len(rows.kept), total),
        *share_note("oldest turns of prompts of train that do not fit", int(rows.cut.sum()), turns),
    )


def _model(config: ConfigDict) -> tuple[int, tuple[str, ...]]:
    """Return the tokens of a chunk, 1 without fixed chunks, and the names of the intents.

    Raises:
      UserError: chunks that end at spaces, among tokens that are no bytes.
    """
    if ":" in config.model:
        return 1, INTENTS
    fields = model_fields(config)
    fields.pop("vocab_size", None)  # possibly not resolved yet
    model = jaxmodels.make_config(config.model, **fields)
    chunking = getattr(model, "chunking", "")
    if chunking == "space" and config.data.tokenizer != "byte":
        raise UserError(
            "config.model_config.chunking: 'space' looks for spaces among bytes; set it to 'fixed' "
            "or 'learned', or data.tokenizer to 'byte'"
        )
    fixed = chunking == "fixed"
    return model.chunk_size if fixed else 1, getattr(model, "intents", INTENTS)


def _check_fit(config: ConfigDict) -> None:
    """Reject config values that do not apply to conversations, before anything is read."""
    d = config.data
    if d.carry_state:
        raise UserError(
            "config.data.carry_state: rows are independent exchanges, between which no state is "
            "carried; set it to false"
        )
    if config.curriculum:
        raise UserError("config.curriculum: rows of exchanges have a fixed length; leave it out")
    if config.control.watch:
        raise UserError(
            "config.control.watch: needs running text, not format 'chat'; set it to false"
        )
    if ":" not in config.model and hasattr(jaxmodels.make_config(config.model), "mode"):
        raise UserError(
            f"config.data.format: model {config.model!r} does not read 'chat', but left-to-right "
            "models do, such as rnk, mamba and rwkv"
        )


def _valid_stream(config: ConfigDict, corpus: ChatCorpus) -> tuple[Any, int]:
    """Return (batches over `eval_tokens` of the validation rows, bytes of their targets)."""
    tokens = config.data.eval_tokens
    rows = rows_of(config, corpus.valid, corpus.tokenizer)
    limit = max(tokens // config.seq_len, 1) if tokens else None
    chosen = np.array(evenly_spaced(range(len(rows.kept)), limit))
    rows = ChatRows(*(column[chosen] for column in rows))
    return row_eval_stream(rows, **stream_arguments(config)), int(rows.sizes[:, 1].sum())
