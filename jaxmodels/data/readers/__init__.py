"""Readers of dataset formats: one function per format, text to records."""
