"""Names of parts (engines, benchmarks, endpoints, executors, searches) and of their classes, imported on first use.

Built-in parts and plugins are registered in the same way: an entry point in the group ``swarmtune.plugins`` names a
function without arguments, which calls ``register_engine``, ``register_benchmarks``, ``register_endpoints``,
``register_executor``, ``register_search`` or ``register_settings``.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from swarmtune.errors import ConfigurationError

GROUP = "swarmtune.plugins"
MOST_TOLD = 5
SCRIPTED = frozenset(  # engines that have no part of their own here
    (
        *("trtllm", "tensorrtllm", "tensorrt", "triton", "tritonserver", "tgi", "textgenerationinference", "lmdeploy"),
        *("dynamo", "ollama", "ktransformers", "mlc", "mlcllm", "exllama", "tabbyapi", "xinference", "fastdeploy"),
    )
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class Registry:
    """name -> class, given as the class itself or as ``"package.module:Class"``."""

    def __init__(self, kind: str, base: str = "", needs: tuple[str, ...] = (), guards: bool = False) -> None:
        """``base``: "package.module:Class" of which every part is a subclass; ``needs``: attributes of its class;
        ``guards``: what a plugin's part raises and returns is looked at (``border.guarded``).
        """
        self.kind, self._base, self._needs, self._guards = kind, base, needs, guards
        self._entries: dict[str, tuple[type | str, str]] = {}
        self._plugins: dict[str, str] = {}
        self._guarded: dict[type, type] = {}

    def register(self, name: Any, target: Any, summary: Any = "") -> None:
        """Add a part. Registering a name again replaces it: a plugin may override a built-in part.

        ValueError if the name or the target cannot be that of a part.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a part: letters, digits and . _ + - only, 64 at most")
        if not isinstance(target, type) and not (isinstance(target, str) and ":" in target):
            raise ValueError(f"the {self.kind} {name!r} must be a class or 'package.module:Class', not {target!r}")
        self._entries[name] = (target, str(summary or ""))
        self._plugins[name] = _plugin

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    @property
    def by_registration(self) -> tuple[str, ...]:
        """The names in the order in which they were registered."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def spelled(self, name: str) -> str:
        """The name as it was registered, where only upper and lower case differ from that of one part; else as it is."""
        found = [known for known in self._entries if known.lower() == name.lower()]
        return found[0] if name not in self._entries and len(found) == 1 else name

    def summary(self, name: str) -> str:
        """One line for ``--help``."""
        return self._entries[name][1]

    def is_ours(self, name: str) -> bool:
        """Is it a part of SwarmTune itself? Those are known to be right, and some are slow to import."""
        target = self._entries[name][0]
        return (target if isinstance(target, str) else target.__module__).startswith("swarmtune.")

    def check(self, name: str) -> None:
        """Raise ConfigurationError if no part has this name; it lists the nearest name, all names, and the plugins that
        could not be loaded, each of which may have it.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, list(self), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            if self.kind == "engine" and re.sub(r"[-_ ]", "", name.lower()) in SCRIPTED:
                hint = " Start it by a script of yours: -e command."
            text = f"There is no {self.kind} named {name!r}.{hint} Registered: {', '.join(self)}."
            raise ConfigurationError(f"{text}{unloaded()}")

    def load(self, name: str) -> Any:
        """The class registered under this name; ConfigurationError names the near ones if there is none."""
        self.check(name)
        target = self._entries[name][0]
        try:
            found = _imported(target) if isinstance(target, str) else target
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's module may raise anything
            message = f"The {self.kind} {name!r} cannot be loaded from {target}: {error!r}{_place(error)}"
            raise ConfigurationError(message, details={"name": name, "target": target}) from error
        lacking = [attribute for attribute in self._needs if not hasattr(found, attribute)]
        if self._base and not (isinstance(found, type) and issubclass(found, _imported(self._base))):
            lacking.insert(0, f"base class {self._base.replace(':', '.')}")
        lacking += [f"{method}()" for method in sorted(getattr(found, "__abstractmethods__", ())) if self._guards]
        if lacking:
            message = f"The {self.kind} {name!r} ({found!r}) cannot be used: it has no {', no '.join(lacking)}"
            raise ConfigurationError(message, details={"name": name})
        return self._guard(name, found) if self._guards and not self.is_ours(name) else found

    def _guard(self, name: str, found: type) -> type:
        from swarmtune.border import guarded

        if found not in self._guarded:
            plugin = f" of the plugin {self._plugins[name]!r}" if self._plugins[name] else ""
            self._guarded[found] = guarded(found, _imported(self._base), f"{self.kind} {name!r}{plugin}")
        return self._guarded[found]


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


_plugin = ""  # the one that is being loaded
engines = Registry("engine", "swarmtune.engines.base:Engine", ("name", "Config"), guards=True)
benchmarks = Registry("benchmark", "swarmtune.loadgen.base:Benchmark", ("name", "Config"), guards=True)
endpoints = Registry("endpoint", "swarmtune.loadgen.endpoints.base:Endpoint", guards=True)
searches = Registry("search algorithm", "swarmtune.search.base:Search", guards=True)
executors = Registry("executor", "swarmtune.execution.executors.base:Executor", guards=True)
settings_sections: dict[str, type] = {}

_broken: list[str] = []
_loaded = False


def register_engine(name: str, target: type | str, summary: str = "") -> None:
    """Register an engine for ``-e NAME``."""
    engines.register(name, target, summary)


register_simulator = register_engine
"""Alias for plugins of the older tuner, which called engines simulators."""


def register_benchmarks(name: str, target: type | str, summary: str = "") -> None:
    """Register a load generator for ``-b NAME``."""
    benchmarks.register(name, target, summary)


def register_endpoints(name: str, target: type | str, summary: str = "") -> None:
    """Register an API for our load generator for ``--endpoint-type NAME``."""
    endpoints.register(name, target, summary)


def register_search(name: str, target: type | str, summary: str = "") -> None:
    """Register a search algorithm for ``--algorithm NAME``."""
    searches.register(name, target, summary)


def register_executor(name: str, target: type | str, summary: str = "") -> None:
    """Register an executor for ``--executor NAME``."""
    executors.register(name, target, summary)


def register_settings(section: str, model: type) -> None:
    """Declare a pydantic model for the table ``[section]`` of config.toml, for a plugin's own settings."""
    settings_sections[section] = model


def load_plugins(found: Callable[[], list[EntryPoint]] | None = None) -> list[str]:
    """Run every entry point once. A broken plugin is skipped; returns one line for each, and raises nothing.

    ``found`` returns entry points in place of the installed ones.
    """
    global _loaded, _plugin  # noqa: PLW0603 - the registry is the one thing that is per process by design
    if not _loaded or found is not None:
        _loaded = True
        for entry in found() if found else list(entry_points(group=GROUP)):
            _plugin = entry.name
            try:
                entry.load()()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; the run must not depend on it
                skip(f"plugin {entry.name!r} ({entry.value})", error)
            finally:
                _plugin = ""
    return list(_broken)


def skip(what: str, error: BaseException) -> None:
    """Record a broken part of a plugin that is left out, for ``load_plugins`` to report."""
    told = error.message if isinstance(error, ConfigurationError) else f"{error!r}{_place(error)}"
    line = f"{what} is broken and was skipped: {told}"
    if line not in _broken:
        _broken.append(line)


def skipped(what: str) -> str:
    """Why this part of a plugin was left out; empty if it was not."""
    return next((line for line in _broken if line.startswith(f"{what} is broken and")), "")


def unloaded() -> str:
    """Behind a sentence that a name is not known: the plugins that could not be loaded, each of which may declare it."""
    lines = [line for line in _broken if line.startswith("plugin ")][:MOST_TOLD]
    return f" Not loaded, and one may have it: {'; '.join(lines)}." if lines else ""


def _place(error: BaseException) -> str:
    from swarmtune.border import place_of

    return place_of(error)
