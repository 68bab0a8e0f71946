"""Self-test: load a built-in server of known timing, and compare the measured with the true values."""
