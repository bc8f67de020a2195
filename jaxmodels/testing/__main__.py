"""Check cells, registered or in a file of your own; print one line per promise.

    python -m jaxmodels.testing                      # all cells
    python -m jaxmodels.testing rwkv7 mamba2
    python -m jaxmodels.testing path/to/my_cell.py   # every cell that the file defines

exit status: 0 all promises kept, 1 a promise broken, 2 invalid input
"""

import contextlib
import sys

from jaxmodels import cli
from jaxmodels.python_file import modules_beside
from jaxmodels.testing import CHECKED, cells_in_file, check_cell


@cli.command(interrupted="stopped; not every promise was checked")
def main(arguments: list[str]) -> int:
    """Check the named cells; return 0, or 1 if a promise is broken."""
    parser = cli.parser("jaxmodels.testing", __doc__)
    parser.add_argument(
        "cells", metavar="CELL", nargs="*", default=list(CHECKED), help="name or file"
    )
    failures = 0
    for cell in parser.parse_args(arguments).cells:
        is_path = cell.endswith(".py") or "/" in cell
        with modules_beside(cell) if is_path else contextlib.nullcontext():
            for one in cells_in_file(cell) if is_path else [cell]:
                failures += sum(not result.ok for result in check_cell(one, raises=False))
    print(f"{failures} broken" if failures else "all promises kept")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
