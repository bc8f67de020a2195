"""The conformance suite: one line a promise, of cells of the zoo or of a file of one's own.

    python -m jaxmodels.testing                      # all cells
    python -m jaxmodels.testing rwkv7 mamba2
    python -m jaxmodels.testing path/to/my_cell.py   # every cell that the file defines

exit status: 0 all promises kept, 1 one is broken, 2 a mistake in the input
"""

import sys

from jaxmodels.errors import UserError
from jaxmodels.testing import CHECKED, cells_in_file, check_cell
from jaxmodels.xla_flags import set_safe_flags


def main(arguments: list[str]) -> int:
    """-> the exit status: 0 all kept, 1 a promise broken, 2 a mistake in the input."""
    set_safe_flags()
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    failures = 0
    try:
        for argument in arguments or list(CHECKED):
            is_path = argument.endswith(".py") or "/" in argument
            for cell in cells_in_file(argument) if is_path else [argument]:
                failures += sum(not result.ok for result in check_cell(cell, raises=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{failures} broken" if failures else "all promises kept")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
