"""`python -m jaxmodels.convert SOURCE DEST [--to FORMAT]`: convert weights between formats."""

import sys
from pathlib import Path

import jaxmodels
from jaxmodels import cli
from jaxmodels.convert import FOLDERS, FORMATS, WRITTEN, format_of, load, save
from jaxmodels.convert.gguf import tokenizer_files
from jaxmodels.convert.tokenizer import files_for, files_of_source, ids_of
from jaxmodels.data.tokenizers.folder import has_tokenizer
from jaxmodels.extras import import_extra
from jaxmodels.writing import must_be_new

EXAMPLES = """
examples:
  python -m jaxmodels.convert RWKV-4-Pile-169M.pth rwkv-169m
  python -m jaxmodels.convert mamba2-130m/ mamba-130m
  python -m jaxmodels.convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2
  python -m jaxmodels.convert RWKV-x060-World-1B6.pth rwkv-1b6 --tokenizer rwkv_world
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
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="a tokenizer.json, a folder with one, or rwkv_world, to put into DEST; default: that "
        "of the folder SOURCE",
    )
    options = parser.parse_args(arguments)
    must_be_new(options.dest)  # fail before the work, not after it
    if options.to != "rwkv_cpp":
        import_extra("safetensors")
    source = format_of(options.source)
    model = load(options.source)
    files, says = _tokenizer(options, model)
    save(model, options.dest, options.to, options.dtype, files)
    print(
        f"{options.source} ({source}) -> {options.dest} ({options.to}): "
        f"{type(model).__name__}, {jaxmodels.count_parameters(model):,} parameters"
    )
    if says:
        print(says)


def _tokenizer(options, model) -> tuple[dict[str, str], str]:
    """Return (files of the tokenizer for DEST, a line that says so)."""
    if options.tokenizer:
        return files_for(options.tokenizer, ids_of(model))
    if options.to in FOLDERS and format_of(options.source) == "gguf":
        files = tokenizer_files(options.source)
        says = f"{', '.join(sorted(files))}: of the same file"
        return files, says if files else "no tokenizer that is supported; give one by --tokenizer"
    if options.to in FOLDERS and has_tokenizer(options.source):
        return files_of_source(options.source, ids_of(model))
    return {}, ""


if __name__ == "__main__":
    sys.exit(main())
