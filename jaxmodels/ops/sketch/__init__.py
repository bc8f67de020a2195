"""Random sketches of long sparse vectors: hashes, CountSketch, Hadamard transforms, whitening.

A sketch is a function of its input and a seed. Permutations and signs are drawn from the seed
where they are used; no matrix is stored.
"""

from jaxmodels.ops.sketch.count_sketch import count_sketch
from jaxmodels.ops.sketch.hadamard import apply_block_srht, srht, srht_views, walsh_hadamard
from jaxmodels.ops.sketch.hashing import hash_ngrams, hash_order
from jaxmodels.ops.sketch.whitening import Whitening, fit_whitening, whiten

__all__ = [
    "Whitening",
    "apply_block_srht",
    "count_sketch",
    "fit_whitening",
    "hash_ngrams",
    "hash_order",
    "srht",
    "srht_views",
    "walsh_hadamard",
    "whiten",
]
