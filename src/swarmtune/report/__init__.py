"""WHAT it means: the sentences, tables, figures and files that a terminal, a page and a program get of a study."""
