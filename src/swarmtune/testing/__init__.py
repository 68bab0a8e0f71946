"""Conformance tests of every contract, to be inherited: ``class TestMine(SearchContract): ...``. Needs pytest."""
