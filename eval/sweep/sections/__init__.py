"""Sections of a sweep's page, each built from `sweep.json`."""
