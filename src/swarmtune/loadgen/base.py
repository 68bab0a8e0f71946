"""The contract of every load generator: workload in, command out; files in, measurement out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtune.records import Command, Measurement, Node
from swarmtune.workload import Workload


@dataclass(frozen=True)
class LoadedService:
    """The service that a load is put on: where it answers, its nodes with its devices, and where it tells its metrics.

    ``power_needed``: the objective counts per watt. ``token``: marks its processes (SWARMTUNE_TOKEN).
    """

    url: str
    nodes: tuple[Node, ...] = ()
    metrics_url: str = ""
    power_needed: bool = False
    token: str = ""


COMMON = (  # every benchmark has them
    *("output_throughput", "request_throughput", "total_token_throughput", "success_rate"),
    *("completed", "failed", "duration_s", "total_input_tokens", "total_output_tokens"),
)


class Benchmark(ABC):
    """A load generator is a command that leaves files. Our own is one too.

    ``config`` is the benchmark's own frozen section of config.toml (class attribute ``Config``, a pydantic model).
    """

    name: str
    Config: type
    statistics: Collection[str] = ()  # of a foreign tool, which ones its measurements have
    samples: Collection[str] = ()  # of which samples, ttft_ms; empty: not declared
    scalars: Collection[str] = ()  # and numbers that not every tool has, request_goodput
    runs_anywhere = False  # is its command a module of swarmtune, which another machine's Python can run?
    measures_power = False  # can a measurement have power_watts, the mean power of the service's accelerators?
    model_folder: str | None = ""  # see learn_model

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def reads(self) -> tuple[str, ...]:
        """Files of this machine that its command reads, as the whole paths by which the command's own files name them."""
        return ()

    @property
    def early_stop_obstacle(self) -> str:
        """Why its measurements cannot end early by ``Workload.early_stop``, as part of a sentence; empty: they can."""
        return f"the benchmark {self.name} cannot end a measurement early"

    @property
    def early_stop_doubt(self) -> str:
        """Why the beginning of a load says too little of its rest to end it early unasked, as part of a sentence; empty: it
        says enough.
        """
        return ""

    @property
    def concurrency_cap(self) -> int | None:
        """The most requests at a time that the user allows while the load search varies the request rate; None: any."""
        cap: int | None = getattr(self.config, "concurrency", None)  # the user's own, not a default number of users
        return cap

    def learn_model(self, folder: str | None) -> None:
        """Take the folder or file of the model, as the engine names it; empty: it names none; None: none can be known before
        the engine's table is right. Called before ``mistakes``.
        """
        self.model_folder = folder

    def absent(self, metric: str) -> str:
        """Why its measurements have no metric of this name, as part of a sentence; empty: they have it, where the service
        lets it be measured.
        """
        statistic, _, sample = metric.partition("_")
        if not self.samples or metric in (*COMMON, *self.scalars):
            return ""
        if statistic in self.statistics and sample in self.samples:
            return ""
        gives = f"{', '.join(self.statistics)} of {', '.join(self.samples)}" + "".join(
            f", {name}" for name in self.scalars
        )
        return f"the benchmark {self.name} does not give it; it gives {gives}"

    def mistakes(self) -> list[str]:
        """Mistakes in the section, as sentences. Called only for the benchmark that is used."""
        return []

    @abstractmethod
    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model. ``request_slos``: limits in ms by ttft_ms, tpot_ms, e2el_ms."""

    @abstractmethod
    def command(self, workload: Workload, url: str) -> Command:
        """How to put this load on the service at ``url``. Result files go to the command's working directory."""

    def described(self, workload: Workload) -> str:
        """One load in a line of text: the requests, their lengths, and how long it lasts."""
        ends = [f"{workload.requests} requests"] if workload.requests is not None else []
        ends += [f"{workload.duration_s:g} s"] if workload.duration_s is not None else []
        warm = f", {workload.warmup_requests} requests before it" if workload.warmup_requests else ", no warm-up"
        lengths = (
            (workload.input_tokens_mean, workload.input_tokens_stddev),
            (workload.output_tokens_mean, workload.output_tokens_stddev),
        )
        prompts, answers = (f"{mean:g}{f' ± {spread:g}' if spread else ''}" for mean, spread in lengths)
        return f"prompts of {prompts} tokens, answers of {answers}; a load lasts {' or '.join(ends)}{warm}"

    def longest_s(self, workload: Workload) -> float | None:
        """Seconds that a load may last, with everything that it waits for; None: as long as its requests take."""
        return workload.duration_s

    def guesses(self) -> list[str]:
        """What the user has not said of the workload and was guessed, as sentences."""
        return []

    def command_for(self, workload: Workload, service: LoadedService) -> Command:
        """``command``, for a benchmark that also wants to know what the service runs on."""
        return self.command(workload, service.url)

    def no_power(self, nodes: Sequence[Node]) -> str:  # noqa: ARG002 - for those that look
        """Why measurements of a service on these nodes will have no power_watts; empty: they may have it."""
        return "" if self.measures_power else f"the benchmark {self.name} does not measure power"

    @abstractmethod
    def read(self, directory: Path) -> Measurement:
        """The measurement from the files that the command left. BenchmarkParseError if they do not hold one."""
