"""Text corpora: documents, splits, and the streams of batches read from them."""

from jaxmodels.data.text.batching import Labeller, Ring
from jaxmodels.data.text.corpus import load_corpus, to_document
from jaxmodels.data.text.documents import (
    Corpus,
    Document,
    label_classes,
    num_target_bytes,
    num_targets,
    sample_spans,
    split_documents,
    subsample,
)
from jaxmodels.data.text.mixture import IDENTITY_PHASES, Mixture, mixture_stream
from jaxmodels.data.text.split import split_tails
from jaxmodels.data.text.streams import MODES, eval_stream, make_stream

__all__ = [
    "IDENTITY_PHASES",
    "MODES",
    "Corpus",
    "Document",
    "Labeller",
    "Mixture",
    "Ring",
    "eval_stream",
    "label_classes",
    "load_corpus",
    "make_stream",
    "mixture_stream",
    "num_target_bytes",
    "num_targets",
    "sample_spans",
    "split_documents",
    "split_tails",
    "subsample",
    "to_document",
]
