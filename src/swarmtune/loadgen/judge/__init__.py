"""Judge: records become samples, statistics, series and results, and the measurement gets its certificate. No files."""
