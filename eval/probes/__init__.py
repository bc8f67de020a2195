"""Cells compared on synthetic tasks, as small models with equal parameter counts."""
