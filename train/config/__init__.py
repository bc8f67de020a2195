"""Experiment configs: files, overrides, validation and JSON."""
