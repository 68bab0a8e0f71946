"""Requests sent when they are due."""
