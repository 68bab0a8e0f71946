"""WHICH group gets WHICH work: the pool of service groups, its health, and what is run on them."""
