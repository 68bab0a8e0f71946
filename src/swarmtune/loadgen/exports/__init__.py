"""The files and pictures that a run leaves: our own, and those that other people's tools read."""
