"""Maths of a HyperTensor field: interpolation between bands, distances, weights."""

from jaxmodels.ops.field.distance import DISTANCES, WEIGHTINGS, distance, weigh
from jaxmodels.ops.field.interpolation import INTERPOLATIONS, ONE_SIDED, interpolate

__all__ = [
    "DISTANCES",
    "INTERPOLATIONS",
    "ONE_SIDED",
    "WEIGHTINGS",
    "distance",
    "interpolate",
    "weigh",
]
