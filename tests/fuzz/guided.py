"""Fuzz the targets guided by coverage: libFuzzer chooses what Hypothesis draws.

    pip install -e '.[fuzz]'; python -m tests.fuzz.guided [--runs 10000] [--only NAME ...]

Inputs that reach new branches of the readers are kept and changed further. Each target runs in a
process of its own; libFuzzer ends it at the first input that ends in anything but a result or a
one-line refusal, that takes more than --seconds, or that needs two gigabytes. Exit status 1 if
there is any, 2 without atheris.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

# What is instrumented: the readers, not JAX below them.
PACKAGES = ["jaxmodels.data", "jaxmodels.json_text", "jaxmodels.session", "jaxmodels.python_file"]
PACKAGES += ["train.config", "train.fields", "train.io", "train.tasks.fields", "eval.log"]
PACKAGES += ["eval.sweep", "eval.report.run_page", "eval.report.answers_page"]


def one_target(name: str, options: list[str]) -> None:
    """Fuzz a target in this process, which libFuzzer ends."""
    import atheris
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.target import in_folder
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]()
    for function in _functions():  # not at their import, which would read JAX through atheris, too
        atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "in"

        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(target.inputs)
        def check(drawn):
            in_folder(target, folder, drawn)

        atheris.Setup([sys.argv[0], *options], check.hypothesis.fuzz_one_input)
        atheris.Fuzz()


def _functions() -> Iterator[types.FunctionType]:
    """Yield the functions and methods of the packages that are instrumented."""
    for name, module in list(sys.modules.items()):
        if any(name == part or name.startswith(part + ".") for part in PACKAGES):
            for thing in vars(module).values():
                members = vars(thing).values() if isinstance(thing, type) else [thing]
                for member in members:
                    own = getattr(member, "__module__", None) == name
                    if own and isinstance(member, types.FunctionType):
                        yield member


def main() -> int:
    """Fuzz the targets one by one; return the exit status."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.guided",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=10_000, help="inputs of each target")
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60, help="most for one input")
    parser.add_argument("--json", metavar="OUT", help="write the figures to this file")
    flags = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("error: needs atheris; pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    options = [f"-runs={flags.runs}", f"-seed={flags.seed}", f"-timeout={flags.seconds}"]
    options += ["-rss_limit_mb=2048", "-max_len=8192", "-len_control=0"]
    figures = {}
    for name in flags.only:
        with tempfile.TemporaryDirectory() as folder:  # where libFuzzer leaves what crashed
            script = "import sys; from tests.fuzz.guided import one_target; sys.path[:0] = ['']\n"
            script += f"one_target({name!r}, {[*options, f'-artifact_prefix={folder}/']!r})"
            ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        found = re.findall(r"cov: (\d+) ft: (\d+)", ran.stderr)
        figures[name] = {
            "inputs": int((re.findall(r"^#(\d+)", ran.stderr, re.M) or [0])[-1]),
            "branches": [int(found[0][0]), int(found[-1][0])] if found else [],
            "fault": None if ran.returncode == 0 else ran.stderr[-4000:],
        }
        row = figures[name]
        print(f"{name:20} {row['inputs']:7,} inputs, branches {row['branches']}", flush=True)
        if row["fault"]:
            print(row["fault"], file=sys.stderr)
    if flags.json:
        command = f"python -m tests.fuzz.guided --runs {flags.runs} --seed {flags.seed}"
        text = json.dumps({"command": command, "targets": figures}, indent=1)
        Path(flags.json).write_text(text + "\n", encoding="utf-8")
    return int(any(row["fault"] for row in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
