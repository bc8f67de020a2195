"""Text tasks: corpus, training stream and validation batches of an experiment on text."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from jaxmodels.data import (
    Corpus,
    Document,
    Mixture,
    eval_stream,
    label_classes,
    load_corpus,
    make_stream,
    num_target_bytes,
    num_targets,
    read_lexicon,
    sample_spans,
    split_documents,
    split_tails,
    subsample,
)
from jaxmodels.data.loading import grain_dataset, rows_of_host
from jaxmodels.errors import UserError
from train.model import resolve_vocab
from train.tasks.lengths import lengths_of
from train.tasks.task import Task, stream_arguments
from train.tuning.base import base_tokenizer

if TYPE_CHECKING:
    from jaxmodels.data.labels.relations import RelationLabeller


def open_text(config: ConfigDict) -> Task:
    """Read the corpus and make the streams; raise UserError if invalid."""
    corpus, labels = corpus_of(config), labeller_of(config)
    config = resolve_vocab(config, corpus.tokenizer.vocab_size)
    train = _train_stream(config, corpus, labels)
    valid, valid_bytes = None, 0
    if config.eval_every:
        documents = subsample(corpus.valid, config.data.eval_tokens or None)
        streams = stream_arguments(config)
        valid = eval_stream(documents, seq_len=config.seq_len, labels=labels, **streams)
        valid_bytes = num_target_bytes(documents)
    tokens = sum(len(document) for document in corpus.train)
    return Task(
        config=config,
        corpus=corpus,
        train=train,
        valid=valid,
        valid_bytes=valid_bytes,
        bytes_per_token=num_target_bytes(corpus.train) / max(num_targets(corpus.train), 1),
        steps_per_epoch=tokens / (config.batch_size * config.seq_len),
        fingerprint=corpus.fingerprint(),
        label_classes=label_classes(corpus.train + corpus.valid + corpus.test),
        notes=corpus.notes,
    )


def _train_stream(config: ConfigDict, corpus: Corpus, labels: RelationLabeller | None) -> Any:
    d = config.data
    if len(d.mixture):
        return _mixture(config, labels)
    return make_stream(
        _pieces(config, corpus.train),
        seed=config.seed,
        mode=d.mode,
        carry_state=d.carry_state,
        lengths=[(x.start, x.seq_len) for x in lengths_of(config)] if config.curriculum else (),
        labels=labels,
        seq_len=config.seq_len,
        **stream_arguments(config),
    )


def _pieces(config: ConfigDict, documents: tuple[Document, ...]) -> tuple[Document, ...]:
    """Return the documents, whole, cut into pieces, or as drawn spans of about as many tokens."""
    d = config.data
    if not d.span_tokens:
        return split_documents(documents, d.piece_tokens or None)
    if d.piece_tokens:
        raise UserError("config.data.span_tokens: spans replace pieces; set data.piece_tokens=0")
    count = -(-sum(map(len, documents)) // d.span_tokens)
    return sample_spans(documents, span_len=d.span_tokens, count=count, seed=config.seed)


def corpus_of(config: ConfigDict) -> Corpus:
    """Return the corpus of an experiment, split and tokenized; errors as in `load_corpus`.

    With `data.mixture` it joins all sources. With `data.valid_from` "tail_of_tracks", validation is
    the last `valid_fraction` of each of `batch_size` equal tracks, cut before batching (but a
    fitted tokenizer has seen it).
    """
    d = config.data
    corpus = _load(config, d.paths, d.format) if not len(d.mixture) else _mixed(config)[0]
    if d.valid_from != "tail_of_tracks":
        return corpus
    train, valid = split_tails(corpus.train + corpus.valid, config.batch_size, d.valid_fraction)
    split = (
        f"by track: of each of {config.batch_size} tracks the last {d.valid_fraction:g} to valid"
    )
    return dataclasses.replace(corpus, train=train, valid=valid, split=split)


def _load(config: ConfigDict, paths, format: str, tokenizer: Any = None, kinds=()) -> Corpus:
    d = config.data
    tokenizer = tokenizer or base_tokenizer(config) or d.tokenizer
    return load_corpus(
        paths,
        tokenizer,
        format=format,
        valid_fraction=0.0 if d.valid_from == "tail_of_tracks" else d.valid_fraction,
        test_fraction=d.test_fraction,
        max_tokens=d.max_tokens,
        min_freq=d.min_freq,
        max_unused=d.max_unused,
        kinds=kinds,
        examples=d.examples,
    )


def _mixed(config: ConfigDict) -> tuple[Corpus, dict[str, tuple[Document, ...]]]:
    """Return (all sources as one corpus, training documents by source).

    Sources are ordered by name, as in a config read from JSON. A fitted tokenizer is fitted on the
    first.
    """
    d = config.data
    if d.mode != "windows" or d.piece_tokens or d.valid_from != "split":
        raise UserError(
            "config.data.mixture: rows are windows of one source; set data.mode='windows', "
            "data.piece_tokens=0 and data.valid_from='split'"
        )
    parts: dict[str, Corpus] = {}
    for name, source in sorted(d.mixture.items()):
        fields = source.to_dict() if isinstance(source, ConfigDict) else source
        if not isinstance(fields, dict) or not {"paths", "weights"} <= fields.keys():
            raise UserError(f"config.data.mixture.{name}: needs the fields paths and weights")
        if unknown := sorted(fields.keys() - {"paths", "weights", "format", "kinds"}):
            raise UserError(
                f"config.data.mixture.{name}: unknown field {unknown[0]!r}; choose from: paths, "
                "weights, format, kinds"
            )
        tokenizer = next(iter(parts.values())).tokenizer if parts else None
        format, kinds = fields.get("format", d.format), fields.get("kinds", ())
        try:
            parts[name] = _load(config, fields["paths"], format, tokenizer, kinds)
        except UserError as error:
            raise UserError(f"config.data.mixture.{name}: {error}") from error
    splits = [
        tuple(document for part in parts.values() for document in getattr(part, split))
        for split in ("train", "valid", "test")
    ]
    first = next(iter(parts.values()))
    notes = tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes)
    whole = Corpus(" + ".join(parts), *splits, first.tokenizer, first.split, notes)
    return whole, {name: part.train for name, part in parts.items()}


def _mixture(config: ConfigDict, labels) -> Any:
    """Return the stream of `data.mixture`, {source: its fields}.

    Fields: paths, weights (one per phase), and optionally format and kinds (see `load_corpus`).
    """
    d = config.data
    ends = tuple(d.mixture_ends)
    if not ends or ends[-1] != 1.0 or list(ends) != sorted(set(ends)) or ends[0] <= 0:
        raise UserError(f"config.data.mixture_ends: must ascend to 1.0, got {ends}")
    source = Mixture(
        _mixed(config)[1],
        {name: tuple(source["weights"]) for name, source in sorted(d.mixture.items())},
        [round(end * config.steps) for end in ends],
        rows=rows_of_host(config.batch_size, jax.process_index(), jax.process_count()),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seed=config.seed,
        labels=labels,
    )
    return grain_dataset(source, d.prefetch)


def labeller_of(config: ConfigDict) -> RelationLabeller | None:
    """Return the labeller that derives labels while batches are made; None without labels."""
    d = config.data
    if d.labels != "relations":
        return None
    from jaxmodels.data.labels.relations import RelationLabeller  # slow import: reads word lists

    lexicon = read_lexicon(d.lexicon) if d.lexicon else None
    return RelationLabeller(d.label_slots, d.label_roles, d.label_classes, lexicon)
