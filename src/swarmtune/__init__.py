"""SwarmTune finds the settings at which an LLM inference service gives the most useful work within its SLOs.

The public names are loaded on first use, so that ``import swarmtune`` stays light: it imports nothing at all.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes milliseconds in which Ctrl-C would show a traceback
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "records": ("Command", "Event", "File", "Group", "Measurement", "Score", "Setting", "Trial", "TrialState"),
    "errors": ("ConfigurationError", "Culprit", "SwarmTuneError"),
    "registry": (
        "register_benchmarks",
        "register_endpoints",
        "register_engine",
        "register_executor",
        "register_search",
        "register_settings",
        "register_simulator",
    ),
    "workload": ("Load", "Workload"),
    "space": ("Field", "Space"),
    "search.base": ("Search",),
    "engines.base": ("Engine",),
    "loadgen.base": ("Benchmark",),
    "loadgen.endpoints.base": ("Endpoint",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604 - the names are built above, and a test reads them


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'swarmtune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"swarmtune.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
