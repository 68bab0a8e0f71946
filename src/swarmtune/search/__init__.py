"""WHAT to try next: every search is ask and tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarmtune.registry import register_search

if TYPE_CHECKING:
    from swarmtune.search.sampler import SwarmSampler

__all__ = ["SwarmSampler", "register"]


def register() -> None:
    """Make the built-in searches known (entry point of the group ``swarmtune.plugins``)."""
    register_search("swarm", "swarmtune.search.assisted:AssistedSwarm", "particle swarm with surrogates (default)")
    register_search("pso", "swarmtune.search.swarm:SwarmSearch", "plain asynchronous particle swarm")
    register_search("gp", "swarmtune.search.bayesian:BayesianSearch", "Gaussian processes without a swarm")
    register_search("tpe", "swarmtune.search.optuna_adapter:TpeSearch", "Optuna's tree-structured Parzen estimator")
    register_search("cmaes", "swarmtune.search.cmaes:CmaEsSearch", "covariance matrix adaptation")
    register_search("nsga2", "swarmtune.search.optuna_adapter:Nsga2Search", "Optuna's genetic algorithm NSGA-II")
    register_search("qmc", "swarmtune.search.qmc:QmcSearch", "evenly spread points")
    register_search("random", "swarmtune.search.random:RandomSearch", "uniformly random legal settings, the control")
    register_search("grid", "swarmtune.search.grid:GridSearch", "every setting of a small space")
    register_search("auto", "swarmtune.search.auto:AutoSearch", "the one that suits the space and the budget")


def __getattr__(name: str) -> Any:
    """``from swarmtune.search import SwarmSampler``, without loading Optuna for everybody else."""
    if name != "SwarmSampler":
        raise AttributeError(f"module 'swarmtune.search' has no attribute {name!r}")
    from swarmtune.search.sampler import SwarmSampler

    return SwarmSampler
