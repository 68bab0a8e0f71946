"""WHAT to try next: every search is ask and tell."""

from swarmtune.registry import register_search


def register() -> None:
    """Make the built-in searches known (entry point of the group ``swarmtune.plugins``)."""
    register_search("swarm", "swarmtune.search.swarm:SwarmSearch", "asynchronous particle swarm (default)")
    register_search("random", "swarmtune.search.random:RandomSearch", "uniformly random legal settings, the control")
    register_search("tpe", "swarmtune.search.optuna_adapter:TpeSearch", "Optuna's tree-structured Parzen estimator")
