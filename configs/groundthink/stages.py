"""Custom stages for `python -m train.stages`: RWKV alone, then all, then a lower learning rate.

    python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/own --data input.txt
                           --stages=configs/groundthink/stages.py

A stage is a name and the config fields that differ in it; it ends after `steps`, or when its
controller stops it.
"""


def get_stages() -> list[tuple[str, dict]]:
    """Return three stages; in the first, RWKV learns alone to a loss of 2.5 nats or 200 steps."""
    waiting = {"optimizer.freeze": {"mamba": -1}, "steps": 200}
    return [
        ("rwkv", waiting | {"control.enabled": True, "control.target_loss": 2.5}),
        ("both", {"steps": 200}),
        ("gently", {"steps": 100, "optimizer.learning_rate": 4e-4}),
    ]
