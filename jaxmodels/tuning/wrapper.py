"""What the wrappers have in common: a frozen base, and its traits."""

from flax import nnx

from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.quantized import is_quantized


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

    @property
    def check_data(self):
        """See `Traits`."""
        return traits_of(self.base).check_data

    @property
    def kinds(self):
        """See `Traits`."""
        return traits_of(self.base).kinds

    @property
    def main_term(self) -> str:
        """See `Traits`."""
        return traits_of(self.base).main_term

    @property
    def draws_by_row(self) -> bool:
        """See `Traits`."""
        return traits_of(self.base).draws_by_row

    @property
    def replicated_only(self) -> bool:
        """See `Traits`."""
        return traits_of(self.base).replicated_only

    @property
    def sums_by_token(self) -> bool:
        """See `Traits`."""
        return traits_of(self.base).sums_by_token
