"""Exports: the files and pictures that a run leaves, in our formats and in those of other tools."""
