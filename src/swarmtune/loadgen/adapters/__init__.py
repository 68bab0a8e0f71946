"""Adapters: the load generators of others, each driven by its own command line and read from its own result files."""
