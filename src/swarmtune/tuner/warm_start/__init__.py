"""What earlier studies of the same service say."""
