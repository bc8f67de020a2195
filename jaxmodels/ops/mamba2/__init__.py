"""The Mamba-2 mixer between its projections, one implementation a file."""
