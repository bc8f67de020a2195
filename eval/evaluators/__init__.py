"""Evaluators: what a trained model scores on text and on questions."""
