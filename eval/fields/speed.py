"""Measure how fast a field learns and answers, and what its candidates miss.

    python -m eval.fields.speed [--parts throughput latency] [--sizes N ...] [--out FILE]

throughput  samples a second of processor time in learning, beside a loop in NumPy over samples and
            tensors (eval/fields/loop.py); N = 8,192, d = 1,024, V = 4,097, K = 64
latency     time of one prediction against N, by all distances and by candidates, and the share of
            the nearest that the candidates hold, beside the index of `faiss-cpu` if that is
            installed; anchors are contexts of the default corpus, d = 512, V = 256, K = 64
"""

import shlex
import statistics
import sys
import time
from typing import Any

from jaxmodels import cli
from jaxmodels.cli import progress_counter

SIZES = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
PARTS = ("throughput", "latency")


@cli.command()
def main(arguments: list[str]) -> None:
    """Measure and print as JSON."""
    parser = cli.parser("eval.fields.speed", __doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: both")
    add("--sizes", nargs="+", type=int, default=SIZES, metavar="N", help="default: 1000 ... 200000")
    add("--batch", type=int, default=1024, help="samples that learn together; default: %(default)s")
    add("--out", action=cli.NewFile, help="JSON file to write")
    options = parser.parse_args(arguments)

    import json

    from eval.fields.search import latency
    from eval.log import device_description, versions

    start = time.perf_counter()
    result = {"command": shlex.join(["python", "-m", "eval.fields.speed", *arguments])}
    if "throughput" in options.parts:
        result["throughput"] = throughput(batch=options.batch)
    if "latency" in options.parts:
        result["latency"] = latency(sorted(options.sizes), progress_counter("fields", "sizes"))
    result["seconds"] = round(time.perf_counter() - start, 1)
    result |= {"device": device_description(), "versions": versions()}
    print(json.dumps(result, indent=1))
    if options.out:
        cli.write_json(options.out, result)


def throughput(
    tensors: int = 8192,
    inputs: int = 1024,
    outputs: int = 4097,
    top_k: int = 64,
    batch: int = 1024,
    samples: int = 5,
) -> dict[str, Any]:
    """Return samples a second of the library and of the loop, by the source's rule in both.

    Of processor time, so that other work on the machine does not count; all threads do.

    Args:
      tensors, inputs, outputs, top_k: N, d, V and K.
      batch: samples that the library learns from at once.
      samples: that the loop learns from.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from eval.fields.loop import Loop, seconds_of
    from jaxmodels.cells.hypertensor import (
        FieldConfig,
        apply_gradients,
        combine,
        gradients,
        predict,
        random_field,
        read,
    )

    c = FieldConfig(
        inputs,
        outputs,
        tensors=tensors,
        top_k=top_k,
        step="fixed",
        rate=0.03,
        geometry_rate=0.003,
        through_weights=False,
    )
    field = jax.jit(lambda key: random_field(c, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, inputs)).astype(np.float32) / np.float32(inputs**0.5)
    y = rng.integers(0, outputs, batch)

    def learn(field, x, y):
        reading = read(c, field, x, sparse=True)
        logits = combine(field, reading)
        g = jax.nn.softmax(logits) - jax.nn.one_hot(y, outputs)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)[:, 0]
        grads, _ = gradients(c, field, reading, x, g, loss)
        return apply_gradients(c, field, grads, len(x))

    cpu = time.process_time
    loops = {name: Loop(c, field, name == "loop over tensors") for name in LOOPS}
    want = np.asarray(predict(c, field, x[:1], sparse=True))[0]
    errors = [float(np.abs(loop.predict(loop.read(x[0])) - want).max()) for loop in loops.values()]
    rates = {}
    for name, loop in loops.items():
        seconds = seconds_of(lambda i, loop=loop: loop.learn(x[i], int(y[i])), samples, cpu)
        rates[name] = 1.0 / statistics.median(seconds)
    step = jax.jit(learn, donate_argnums=0)
    field = jax.block_until_ready(step(field, x, y))  # compiled

    def update(_):
        nonlocal field
        field = jax.block_until_ready(step(field, x, y))

    rates["batches"] = batch / statistics.median(seconds_of(update, 3, cpu))
    return {
        "tensors": tensors,
        "inputs": inputs,
        "outputs": outputs,
        "top_k": top_k,
        "batch": batch,
        "samples_per_cpu_second": rates,
        "largest_difference_of_outputs": max(errors),
        "times": {name: rates["batches"] / rates[name] for name in LOOPS},
    }


LOOPS = ("loop over tensors", "loop over samples")


if __name__ == "__main__":
    sys.exit(main())
