"""Question-answer pairs: files, row layout, batches, and the HRM dataset format."""

from jaxmodels.data.pairs.files import read_all, read_pairs
from jaxmodels.data.pairs.hrm_format import read_built
from jaxmodels.data.pairs.hrm_read import built_pairs, verify
from jaxmodels.data.pairs.hrm_write import write_hrm
from jaxmodels.data.pairs.layout import MODES, lay_out, read_answer
from jaxmodels.data.pairs.rows import (
    Augmentation,
    Pair,
    PairCorpus,
    Rows,
    evenly_spaced,
    lay_out_pairs,
    normalised,
    pair_eval_stream,
    pair_stream,
    split_by_key,
    texts_of,
    that_fit,
)

__all__ = [
    "MODES",
    "Augmentation",
    "Pair",
    "PairCorpus",
    "Rows",
    "built_pairs",
    "evenly_spaced",
    "lay_out",
    "lay_out_pairs",
    "normalised",
    "pair_eval_stream",
    "pair_stream",
    "read_all",
    "read_answer",
    "read_built",
    "read_pairs",
    "split_by_key",
    "texts_of",
    "that_fit",
    "verify",
    "write_hrm",
]
