"""What came back, understood after the run."""
