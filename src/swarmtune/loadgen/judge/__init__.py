"""Results of a run: Records in; samples, statistics, series and one Results object out. Pure numpy, no files."""
