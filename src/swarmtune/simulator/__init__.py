"""A STAND-IN for a service: a simulated continuous-batching engine whose settings have effect, without a model."""
