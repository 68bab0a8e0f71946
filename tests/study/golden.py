"""The study of the first format that tests/data/golden-study keeps as text."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "data" / "golden-study"
NAME = "simulated-20261126-070858"


def restore(folder: Path) -> Path:
    """Its database in this folder, in the mode in which a tuner leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript((GOLDEN / "study.sql").read_text())
    return path
