"""The search loop: ask, measure, tell."""
