"""WHAT happened: the tables of a study, who writes them, who owns it, and where it lies."""
