"""What a run learned: metrics, baselines, samples, ablations and the HTML report."""
