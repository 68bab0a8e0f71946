"""Continuous batching in virtual time: which requests run in a step. No I/O, no clock."""
