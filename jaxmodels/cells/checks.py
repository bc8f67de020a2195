"""Checks that every cell's config makes; each says what was wrong and what would be right."""

from jaxmodels.errors import UserError


def positive(config, *names: str) -> None:
    """Each named field is a positive integer."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a positive integer, got {value!r}")


def not_negative(config, *names: str) -> None:
    """Each named field is a number that is 0 or more."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise UserError(f"{name} must be a number, 0 or more; got {value!r}")


def one_of(config, name: str, options: tuple[str, ...]) -> None:
    """The named field is one of the options."""
    value = getattr(config, name)
    if value not in options:
        raise UserError(f"{name} must be one of {', '.join(options)}; got {value!r}")


def head_size_of(width: int, head_size: int | None, usual: int = 64) -> int:
    """The head size, `usual` or all of a smaller width if it is None; it must divide the width."""
    if not isinstance(width, int) or width < 1:
        raise UserError(f"width must be a positive integer, got {width!r}")
    size = min(usual, width) if head_size is None else head_size
    if size < 1 or width % size:
        raise UserError(f"head_size={size} must divide width={width}")
    return size
