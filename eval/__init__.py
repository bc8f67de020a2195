"""Evaluation of runs: metrics, baselines, samples, diagnostics, sweeps, benchmarks, reports."""
