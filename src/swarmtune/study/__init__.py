"""WHAT happened: the tables of a study, its writer and reader, its owner, and its place."""
