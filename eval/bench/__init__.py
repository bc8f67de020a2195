"""Benchmarks; `python -m eval.bench --help` lists them."""
