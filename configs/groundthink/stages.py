"""Stages of one's own for `python -m train.stages`: Mamba waits, then everything, then gently.

    python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/own --data input.txt
                           --stages=configs/groundthink/stages.py

A stage is a name and the fields of the config that differ in it; what ends it is its `steps`, or
its controller.
"""


def get_stages() -> list[tuple[str, dict]]:
    """First RWKV alone learns, to a loss of 2.5 nats or for 200 steps."""
    waiting = {"optimizer.freeze": {"mamba": -1}, "steps": 200}
    return [
        ("rwkv", waiting | {"control.enabled": True, "control.target_loss": 2.5}),
        ("both", {"steps": 200}),
        ("gently", {"steps": 100, "optimizer.learning_rate": 4e-4}),
    ]
