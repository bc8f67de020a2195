"""What a cell can and cannot learn: small models on synthetic tasks, at equal parameters."""
