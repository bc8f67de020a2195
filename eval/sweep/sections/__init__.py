"""Sections of a sweep's page, each made from what `sweep.json` holds."""
