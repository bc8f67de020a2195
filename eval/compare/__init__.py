"""Runs that answer questions side by side, and what was claimed beside what was measured."""
