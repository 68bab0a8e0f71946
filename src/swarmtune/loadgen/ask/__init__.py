"""The requests of a run: data sets, sessions, targets."""
