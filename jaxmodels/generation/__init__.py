"""Generation: sampling, continuous batching over recurrent states, prefix cache, streamed text."""
