"""Write `report.html` of a run: one file with metrics, figures, a sample, and provenance.

    python -m eval.report --workdir=runs/name

Also works on a run that is in progress, was stopped, or is incomplete; the page names what is
missing.
"""

import sys

from eval.report.run_page import write_report
from jaxmodels import cli


@cli.command()
def main(arguments: list[str]) -> None:
    """Write the report of a run and print its path."""
    parser = cli.parser("eval.report", __doc__, workdir=cli.RUN)
    print(write_report(parser.parse_args(arguments).workdir))


if __name__ == "__main__":
    sys.exit(main())
