"""What a run takes its predictions from: [simulation], read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from swarmtune.errors import ConfigurationError
from swarmtune.files import expanded
from swarmtune.settings import BaseSections
from swarmtune.simulator.latency.file import fingerprint, load
from swarmtune.simulator.latency.model import LatencyModel


@dataclass(frozen=True)
class Simulation:
    """``model`` None: the engine declares its own step times; ``fingerprint``: of the model's file, or empty;
    ``predictions``: settings that are predicted; ``kv_blocks``: of a service, None: as the engine's table of memory has it;
    ``front_s``: time of HTTP and tokenizer for a request; ``alone``: nothing is measured.
    """

    model: LatencyModel | None
    fingerprint: str
    predictions: int
    kv_blocks: int | None
    front_s: float
    alone: bool = False


def simulation_of(settings: BaseSections, mistakes: list[str]) -> Simulation | None:
    """What [simulation] asks for; None, and perhaps the reasons in ``mistakes``, if nothing is to be predicted."""
    if not settings.simulate:
        return None
    asked, model = settings.simulation, None
    if asked.model is not None:
        try:
            model = load(expanded(asked.model))
        except ConfigurationError as error:
            mistakes.append(f"simulation.model: {error.message}")
            return None
    name = "" if model is None else fingerprint(model)
    front_s = asked.front_end_ms / 1000
    return Simulation(model, name, asked.predictions, asked.kv_blocks, front_s, settings.simulate == "only")


def without_use(settings: BaseSections) -> list[str]:
    """That [simulation] is not used, where nothing is predicted."""
    if settings.simulate or "simulation" not in settings.model_fields_set:
        return []
    return ["[simulation] is not used: nothing is predicted without --simulate (simulate = true)"]
