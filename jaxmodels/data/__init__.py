"""Text and question-answer pairs to batches: tokenizers, readers, corpora, streams, labels."""

from jaxmodels.data.labels.lexicon import read_lexicon
from jaxmodels.data.labels.relations import RelationLabeller
from jaxmodels.data.readers.formats import FORMATS
from jaxmodels.data.readers.metacognition import make_metacognition
from jaxmodels.data.synthetic.relations import RelationGrammar, relation_batch
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
from jaxmodels.data.text.mixture import Mixture
from jaxmodels.data.text.split import split_tails
from jaxmodels.data.text.streams import eval_stream, make_stream
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.fit import tokenizer_from_json

__all__ = [
    "FORMATS",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Document",
    "Mixture",
    "RelationGrammar",
    "RelationLabeller",
    "WordTokenizer",
    "eval_stream",
    "label_classes",
    "load_corpus",
    "make_metacognition",
    "make_stream",
    "num_target_bytes",
    "num_targets",
    "read_lexicon",
    "relation_batch",
    "sample_spans",
    "split_documents",
    "split_tails",
    "subsample",
    "to_document",
    "tokenizer_from_json",
]
