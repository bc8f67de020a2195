"""One run of the toy in a process of its own, for tests that kill it or start two at once.

python -m tests.train.run_toy WORKDIR TEXT [--resume] [--field=value ...]
"""

import sys

from tests.train.toy import toy_config
from train.config import apply_overrides
from train.loop import run

if __name__ == "__main__":
    workdir, text, *rest = sys.argv[1:]
    config = toy_config(
        steps=200, checkpoint_every=9, eval_every=27, log_every=2, data__paths=(text,)
    )
    config.model_config.dropout = 0.1  # so that the random keys matter
    apply_overrides(config, [argument for argument in rest if argument != "--resume"])
    result = run(config, workdir, resume="--resume" in rest, quiet=True)
    print(result.status, result.step, result.digest)
