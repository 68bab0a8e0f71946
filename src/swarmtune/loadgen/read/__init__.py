"""Read: the spool of a run becomes columns, after the run or while it still grows."""
