"""What can this machine measure? A built-in server of known timing, a ladder of loads, the truth beside what was told."""
