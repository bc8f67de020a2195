"""Devices: parameter and row placement, FSDP, multi-process agreement."""
