"""`python -m eval.report`: write `report.html` of a run."""

import sys

from eval.report.run_page import main

if __name__ == "__main__":
    sys.exit(main())
