"""`python -m jaxmodels.convert SOURCE DEST [--to FORMAT]`: weights in and out of other formats."""

import argparse
import sys
from pathlib import Path

import jaxmodels
from jaxmodels.convert import FORMATS, format_of, load, save
from jaxmodels.convert.tensors import must_be_new
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags

EXAMPLES = """
examples:
  python -m jaxmodels.convert RWKV-4-Pile-169M.pth rwkv-169m
  python -m jaxmodels.convert mamba-130m-hf/ mamba-130m
  python -m jaxmodels.convert rwkv-169m rwkv-169m-fp16.bin --to rwkv_cpp --dtype float16

then, in Python:
  model = jaxmodels.convert.load("rwkv-169m")
"""


def main(arguments: list[str]) -> int:
    """-> the exit status: 0, or 2 for a mistake in the input."""
    set_safe_flags()
    formats = "\n".join(f"  {name:12} {what}" for name, what in FORMATS.items())
    parser = argparse.ArgumentParser(
        prog="python -m jaxmodels.convert",
        description="Converts a model's weights. The format of SOURCE is found from its content:\n"
        f"{formats}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="file or folder to read")
    parser.add_argument("dest", metavar="DEST", type=Path, help="new file or folder to write")
    parser.add_argument("--to", choices=FORMATS, default="jaxmodels", help="default: jaxmodels")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the matrices in an rwkv.cpp file; all else is float32",
    )
    options = parser.parse_args(arguments)
    try:
        must_be_new(options.dest)  # before the work, not after
        source = format_of(options.source)
        model = load(options.source)
        save(model, options.dest, options.to, options.dtype)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.source} ({source}) -> {options.dest} ({options.to}): "
        f"{type(model).__name__}, {jaxmodels.count_parameters(model):,} parameters"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
