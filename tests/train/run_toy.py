"""One run of the toy in a process of its own, for tests that end it, or start two at once.

python -m tests.train.run_toy WORKDIR TEXT [--resume] [--config.field=value ...]
"""

from jaxmodels import cli
from tests.train.toy import toy_config
from train.config import apply_overrides
from train.loop import EXIT_STATUS, run


@cli.command()
def main(arguments):
    cli.quiet_absl()
    workdir, text, *rest = arguments
    config = toy_config(
        steps=200, checkpoint_every=9, eval_every=27, log_every=2, data__paths=(text,)
    )
    config.model_config.dropout = 0.1  # so that the random keys matter
    apply_overrides(config, [argument for argument in rest if argument != "--resume"])
    result = run(config, workdir, resume="--resume" in rest, quiet=True)
    print(result.status, result.step, result.digest)
    return EXIT_STATUS[result.status]


if __name__ == "__main__":
    cli.leave(main())
