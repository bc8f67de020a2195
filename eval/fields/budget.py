"""Make a field as large as a budget of memory, learn from one input, and measure both (F-11).

    python -m eval.fields.budget [--tensors 200000] [--inputs 4096] [--outputs 4096] [--top-k 64]
                                 [--out FILE]

Peak memory is the process's, above what it had before the field.
"""

import resource
import shlex
import sys
import time

from jaxmodels import cli


@cli.command()
def main(arguments: list[str]) -> None:
    """Measure and print as JSON."""
    parser = cli.parser("eval.fields.budget", __doc__)
    add = parser.add_argument
    add("--tensors", type=int, default=200_000, help="N; default: %(default)s")
    add("--inputs", type=int, default=4096, help="d; default: %(default)s")
    add("--outputs", type=int, default=4096, help="V; default: %(default)s")
    add("--top-k", type=int, default=64, help="K; default: %(default)s")
    add("--out", action=cli.NewFile, help="JSON file to write")
    options = parser.parse_args(arguments)

    import json

    from eval.log import device_description, versions

    result = {"command": shlex.join(["python", "-m", "eval.fields.budget", *arguments])}
    result |= measure(options.tensors, options.inputs, options.outputs, options.top_k)
    result |= {"device": device_description(), "versions": versions()}
    print(json.dumps(result, indent=1))
    if options.out:
        cli.write_json(options.out, result)


def measure(tensors: int, inputs: int, outputs: int, top_k: int) -> dict[str, float]:
    """Return bytes of the field and of the formula, peak memory in GiB, and seconds."""
    import jax
    import jax.numpy as jnp

    from jaxmodels.cells.hypertensor import FieldConfig, field_bytes, random_field
    from jaxmodels.cells.hypertensor.update import update_rows

    config = FieldConfig(inputs, outputs, tensors=tensors, top_k=top_k, step="normalized")

    def learn(field, x, target):
        def loss_of(y):
            return jax.value_and_grad(lambda y: -jax.nn.log_softmax(y)[target])(y)

        return update_rows(config, field, x, loss_of)

    learn = jax.jit(learn, donate_argnums=0)
    jax.block_until_ready(jnp.zeros(()) + 1.0)
    before, start = _peak(), time.perf_counter()
    field = jax.block_until_ready(jax.jit(lambda key: random_field(config, key))(jax.random.key(0)))
    made, start = time.perf_counter() - start, time.perf_counter()
    held = sum(x.nbytes for x in jax.tree.leaves(field))
    peak_made = _peak() - before
    x = jax.random.normal(jax.random.key(1), (inputs,)) / inputs**0.5
    losses, seconds = [], []
    for _ in range(3):
        field, loss = jax.block_until_ready(learn(field, x, jnp.int32(7)))
        losses.append(float(loss))
        seconds.append(round(time.perf_counter() - start, 3))
        start = time.perf_counter()
    return {
        "tensors": tensors,
        "inputs": inputs,
        "outputs": outputs,
        "top_k": top_k,
        "gib_held": held / 2**30,
        "gib_by_formula": field_bytes(inputs, outputs, tensors) / 2**30,
        "gib_peak_making": peak_made,
        "gib_peak_learning": _peak() - before,
        "losses": losses,
        "seconds_making": round(made, 1),
        "seconds_of_updates": seconds,
    }


def _peak() -> float:
    """Return the process's peak resident memory, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())
