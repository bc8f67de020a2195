"""What the wrappers have in common: a frozen base, and its traits."""

from flax import nnx

from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.quantized import is_quantized


def _of_base(name: str) -> property:
    return property(lambda self: getattr(traits_of(self.base), name), doc="See `Traits`.")


class Wrapper(nnx.Module):
    """A model around a frozen base; what it does not define is the base's.

    Attributes:
      base: the model, float32.
    """

    def __init__(self, base: nnx.Module):
        if traits_of(base).local_update is not None:
            raise UserError(
                f"{type(base).__name__} learns without gradients, so there is nothing to tune"
            )
        if is_quantized(base):
            raise UserError(
                "a model with int8 weights is for decoding; tune the one it was made of"
            )
        self.base = base

    @property
    def config(self):
        """The base's config."""
        return self.base.config

    @property
    def terms(self):
        """See `Model.terms`."""
        return self.base.terms

    def learned(self, name: str) -> bool:
        """See `Traits.learned`."""
        return not name.startswith("base/")

    check_data = _of_base("check_data")
    kinds = _of_base("kinds")
    main_term = _of_base("main_term")
    draws_by_row = _of_base("draws_by_row")
    replicated_only = _of_base("replicated_only")
    sums_by_token = _of_base("sums_by_token")
