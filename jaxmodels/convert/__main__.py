"""`python -m jaxmodels.convert SOURCE DEST [--to FORMAT]`: convert weights between formats."""

import sys
from pathlib import Path

import jaxmodels
from jaxmodels import cli
from jaxmodels.convert import FORMATS, WRITTEN, format_of, load, save
from jaxmodels.extras import import_extra
from jaxmodels.writing import must_be_new

EXAMPLES = """
examples:
  python -m jaxmodels.convert RWKV-4-Pile-169M.pth rwkv-169m
  python -m jaxmodels.convert mamba2-130m/ mamba-130m
  python -m jaxmodels.convert rwkv-169m rwkv-169m-fp16.bin --to rwkv_cpp --dtype float16

then, in Python:
  model = jaxmodels.convert.load("rwkv-169m")
"""


@cli.command()
def main(arguments: list[str]) -> None:
    """Convert the model of a command line."""
    formats = "\n".join(f"  {name:12} {text}" for name, text in FORMATS.items())
    parser = cli.parser(
        "jaxmodels.convert",
        f"Convert a model's weights. The format of SOURCE is detected from its content:\n{formats}",
        epilog=EXAMPLES,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="file or folder to read")
    parser.add_argument("dest", metavar="DEST", type=Path, help="new file or folder to write")
    parser.add_argument("--to", choices=WRITTEN, default="jaxmodels", help="default: jaxmodels")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="dtype of the matrices in an rwkv.cpp file; everything else is float32",
    )
    options = parser.parse_args(arguments)
    must_be_new(options.dest)  # fail before the work, not after it
    if options.to != "rwkv_cpp":
        import_extra("safetensors")
    source = format_of(options.source)
    model = load(options.source)
    save(model, options.dest, options.to, options.dtype)
    print(
        f"{options.source} ({source}) -> {options.dest} ({options.to}): "
        f"{type(model).__name__}, {jaxmodels.count_parameters(model):,} parameters"
    )


if __name__ == "__main__":
    sys.exit(main())
