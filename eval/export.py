"""`python -m eval.export`: write the model of a run as a folder, for `jaxmodels.convert.load`.

python -m eval.export --workdir=runs/lora tuned                # additions are merged
python -m eval.export --workdir=runs/rwkv rwkv.bin --to rwkv_cpp
python -m eval.export --workdir=runs/rwkv small --quantize     # int8, to decode with
"""

import sys
from pathlib import Path

import jaxmodels
from jaxmodels import cli, convert
from jaxmodels.data.tokenizers.folder import files_of
from jaxmodels.extras import import_extra
from jaxmodels.quantized import num_bytes
from jaxmodels.writing import must_be_new


@cli.command()
def main(arguments: list[str]) -> None:
    """Export the model of a command line."""
    parser = cli.parser("eval.export", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("dest", metavar="DEST", type=Path, help="new folder or file to write")
    parser.add_argument("--to", choices=convert.WRITTEN, default="jaxmodels")
    parser.add_argument("--quantize", action="store_true", help="int8 matrices, to decode with")
    flags = parser.parse_args(arguments)
    must_be_new(flags.dest)  # fail before the work, not after it
    if flags.to != "rwkv_cpp":
        import_extra("safetensors")
    from eval.run import load_trained

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint, flags.base)
    model = jaxmodels.quantize(trained.model) if flags.quantize else trained.model
    files = files_of(tokenizer, flags.workdir) if flags.to in convert.FOLDERS else None
    convert.save(model, flags.dest, flags.to, files=files)
    print(
        f"{flags.workdir}, step {trained.step} -> {flags.dest} ({flags.to}): "
        f"{type(model).__name__}, {jaxmodels.count_parameters(trained.model):,} parameters, "
        f"{num_bytes(model):,} bytes of arrays"
    )


if __name__ == "__main__":
    sys.exit(main())
