"""The contract of every engine: it describes a service and never starts one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Protocol

from swarmtune.engines.baseline import range_notes
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.model_files import ENGINE, Reader
from swarmtune.engines.parallel import parallel
from swarmtune.engines.placement import LiveRequest, live_requests
from swarmtune.engines.questions import Questions
from swarmtune.errors import SwarmTuneError
from swarmtune.records import Command, Group, Setting, Value
from swarmtune.scheduling import Rules
from swarmtune.space import Field


@dataclass(frozen=True)
class Reply:
    """The answer of a service; status 0: there was none."""

    status: int
    body: str = ""


class Probe(Protocol):
    """How an engine looks at a service that starts."""

    async def get(self, path: str) -> Reply:
        """GET on the service's own address."""
        ...

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """POST of a JSON body on the service's own address."""
        ...

    async def logs(self) -> str:
        """The last lines that the service printed."""
        ...


def installed(package: str) -> str:
    """The version of a package in this Python's environment; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


NUMBER_FORMATS = frozenset(
    ("cache_type_k", "cache_type_v", "kv_cache_dtype", "kv_dtype", "quantization", "quantize", "dtype", "weight_type")
)


class Engine(ABC):
    """Parameters, command, readiness and diagnosis of one kind of service.

    ``config`` is the engine's own frozen section of config.toml (class attribute ``Config``, a pydantic model).
    """

    name: str
    Config: type
    spans_nodes = False
    """Can one service run on several nodes? Then ``command`` depends on ``group.rank``."""

    own_variables: tuple[str, ...] = ()
    """Variables of the tuner's environment that become part of ``env``, where this engine is meant."""

    metrics_path = ""
    """Where a service tells Prometheus metrics, below its address; empty: nowhere."""

    changes_answers: frozenset[str] = NUMBER_FORMATS
    """Parameters whose values may change what the model answers: number formats. Written with ``_``, in lower case."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def found(cls) -> bool:
        """Is the real service installed on this machine, so that ``swarmtune init`` may propose it?"""
        return False

    @property
    @abstractmethod
    def model(self) -> str:
        """The model name that requests must carry."""

    @property
    def port(self) -> int:
        """The port that the section fixes (``[ENGINE.command] port``); 0: any free one."""
        text = str(getattr(getattr(self.config, "command", None), "port", ""))
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def version(self) -> str:
        """The version of the program that would be started, where this Python knows it; empty: unknown."""
        return ""

    def questions(self) -> Questions | None:
        """What the program of ``command`` is asked on its node before anything is started; None: there is nothing to ask.

        Called only where the section may be wrong: it raises nothing.
        """
        return None

    def learn(self, help_text: str, version: str, host: str) -> bool:
        """Take the flags in the help of the engine that is installed on this host: for ``mistakes`` they count instead of
        those that SwarmTune knows. False, and nothing has changed, if they cannot be read.
        """
        del help_text, version, host
        return False

    def learn_memory(self, device_bytes: int) -> None:
        """Take the memory of one device, bytes, where the memory table leaves it open."""
        memory = getattr(self, "memory", None)
        if isinstance(memory, KvMemory):
            memory.learn(device_bytes)

    def accelerators(self, setting: Setting, group: Group) -> int:
        """How many of the group's devices the service uses with this setting, as its command says; at least 1."""
        return parallel(self.command(setting, group).argv) or group.accelerators

    @property
    def model_folder(self) -> str:
        """The folder or file of the model, where the section names it by a path; empty: not known. It need not be there."""
        return ""

    @property
    def model_reader(self) -> Reader:
        """What the service does with ``model_folder``."""
        return ENGINE

    @property
    def longest_request(self) -> int | None:
        """Tokens of prompt and answer that one request may have at most in every setting; None: not known."""
        return None

    @property
    def longest_prompt(self) -> int | None:
        """Tokens of a prompt that every setting takes at most; None: not known, or no limit of its own."""
        return None

    @property
    def longest_answer(self) -> int | None:
        """Tokens at which every setting cuts an answer off; None: not known, or no limit of its own."""
        return None

    def metrics_url(self, group: Group) -> str:
        """The address of the metrics of a service on this group; empty: it has none."""
        return f"{group.url}{self.metrics_path}" if self.metrics_path else ""

    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The parameters that may change: the user's ``target_field`` entries, or the engine's own defaults."""

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """Further parameters that the engine knows and ``fields`` does not have, each with a note on it, maybe empty."""
        return ()

    def own_choices(self) -> Mapping[str, str]:
        """The fields whose values at their default are not passed, as the service chooses them itself: each with by what."""
        return {}

    def model_fields(self, model: str) -> tuple[Field, ...]:
        """Fields without a choice by which the service loads this model, where no key of the section does it."""
        del model
        return ()

    def notes(self) -> list[str]:
        """What the user should know of a plan with this engine, as sentences: ranges that were widened, fields without
        effect. Called only where nothing is a mistake.
        """
        return range_notes([entry.to_field() for entry in getattr(self.config, "target_field", ())], self.fields())

    def ranks(self) -> Mapping[str, str]:
        """The kinds of parallel ranks whose product is the number of devices, each with the field that sets it, or with a
        number as text; empty: nothing is known of them.
        """
        return {}

    def constraints(self) -> tuple[str, ...]:
        """Rules between the fields that this engine would refuse at start, in the language of ``space.Constraint``."""
        return ()

    def reasons(self) -> Mapping[str, str]:
        """Why some of ``constraints`` hold, by their text."""
        return {}

    def node_rules(self, nodes: int) -> Mapping[str, str]:
        """Rules that hold for a service on so many nodes, each with the reason; over fields, or over numbers alone."""
        del nodes
        return {}

    def mistakes(self) -> list[str]:
        """Mistakes in the section, as sentences. Called only for the engine that is used."""
        return []

    @abstractmethod
    def command(self, setting: Setting, group: Group) -> Command:
        """How to start the service with this setting on the node ``group.rank`` of this group; the first node answers on
        ``group.url``.
        """

    def scheduling(self, setting: Setting) -> Rules | None:
        """What this setting means for the engine's scheduler; None: its rules are not modelled."""
        del setting
        return None

    def declared_cost(self, setting: Setting) -> Mapping[str, float]:
        """What a step of this engine takes as it declares itself, by the names of ``latency.tables.linear``; empty: a model
        of step times must say it.
        """
        del setting
        return {}

    def of_step_times(self, setting: Setting) -> Mapping[str, Value]:
        """What else decides how long a step takes, by name: a model of step times is one of these values."""
        del setting
        return {}

    def commands(self, setting: Setting, group: Group) -> tuple[Command, ...]:
        """One command for each node of the group, by rank."""
        return tuple(self.command(setting, replace(group, rank=rank)) for rank in range(len(group.nodes)))

    def live_requests(self, setting: Setting) -> tuple[LiveRequest, ...]:
        """The requests that give the running service this setting's live parameters (``Field.live``).

        ``command`` must not depend on these values: a setting that differs in nothing else then needs no restart.
        """
        return live_requests(self.fields(), setting)

    @abstractmethod
    async def ready(self, probe: Probe) -> bool:
        """Is the service up: healthy, and one real completion came back?"""

    @abstractmethod
    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """Why it did not start, or why it ended. ``exit_code`` None: it still runs but did not become ready in time.

        The error names the party that must act (``culprit``) and holds the last lines of the log.
        """
