"""A STAND-IN for a service: a continuous-batching engine whose settings have effect, without a model."""
