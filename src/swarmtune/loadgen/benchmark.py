"""Our own load generator as a benchmark: one command like any other."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swarmtune.devices.host import is_here
from swarmtune.devices.sources import no_power as devices_without_power
from swarmtune.errors import BenchmarkParseError, ConfigurationError, ConfigValidationError, SwarmTuneError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.spec import ServiceNode, Spec
from swarmtune.loadgen.base import Benchmark, LoadedService
from swarmtune.loadgen.exports.measurement import MEASUREMENT_FILE
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.plan import DEFAULT_CONCURRENCY, DEFAULT_REQUESTS, LONGEST, mode_of
from swarmtune.records import Command, File, Measurement, Node, from_plain
from swarmtune.workload import Load, Workload

SPEC_FILE = "spec.json"
MOST_PATH = 4096  # characters; a longer text is not a path


OF_STREAMS = ("ttft_ms", "ttst_ms", "ttfo_ms", "tpot_ms", "itl_ms", "icl_ms", "scheduled_ttft_ms", "scheduled_ttfo_ms")


class SwarmtuneBenchmark(Benchmark):
    """``python -m swarmtune.loadgen``, on the machine's own Python."""

    name = "swarmtune"
    section = "loadgen"
    runs_anywhere = True
    measures_power = True
    config: LoadgenOptions
    Config = LoadgenOptions
    early_stop_obstacle = ""

    @property
    def early_stop_doubt(self) -> str:
        """Loads that are not the same from their beginning to their end."""
        config = self.config
        ramps = ("concurrency_ramp_duration", "prefill_concurrency_ramp_duration", "request_rate_ramp_duration")
        doubts = (
            (config.fixed_schedule, "a schedule has quiet and busy times (fixed_schedule)"),
            (any(getattr(config, name) for name in ramps), "the load rises over a ramp"),
            (
                config.conversation_turn_mean > 1 or config.conversation_turn_stddev > 0,
                "later turns of a conversation are other requests than its first (conversation_turn_mean)",
            ),
            (config.input_file or config.public_dataset, "the first requests of a file may be unlike the rest"),
            (
                config.prompt_prefix_pool_size > 0,
                "the service's cache fills up with prefixes (prompt_prefix_pool_size)",
            ),
            (
                not (config.warmup_request_count or config.warmup_duration or self._until_steady),
                "a service that is not warmed up is slow at first (warmup_request_count)",
            ),
        )
        return next((reason for holds, reason in doubts if holds), "")

    def absent(self, metric: str) -> str:
        """Latencies that need a stream, where none is asked for."""
        sample = metric.partition("_")[2]
        endpoint = self.config.endpoint_type
        if endpoint in ("embeddings", "rankings") and sample in OF_STREAMS:
            return f"the answers of [loadgen] endpoint_type = {endpoint!r} have no tokens"
        if not self.config.streaming and sample in OF_STREAMS:
            return "[loadgen] streaming = false: an answer in one piece has no first token and no time per token"
        return ""

    def mistakes(self) -> list[str]:
        """Files that are not there, and what cannot be read of a file of requests."""
        named = ("input_file", "ca_file", "client_cert", "client_key")
        files = {name: str(getattr(self.config, name)) for name in named}
        missing = [name for name, path in files.items() if path and not Path(path).expanduser().is_file()]
        found = [f"loadgen.{name}: {files[name]} is not a file" for name in missing]
        if not self.config.input_file or "input_file" in missing:
            return found
        try:
            make_dataset(self.config.model_copy(update=self._files), 0)
        except ConfigValidationError as error:
            found += [f"loadgen.input_file: {mistake}" for mistake in error.mistakes]
        except ConfigurationError as error:
            found.append(f"loadgen.input_file: {error.message}")
        return found

    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model."""
        config = self.config
        requests, concurrency = config.request_count, config.concurrency
        endless = requests is None and config.conversation_num is None and config.benchmark_duration is None
        if endless and not config.fixed_schedule:
            requests = DEFAULT_REQUESTS
        if concurrency is None and mode_of(config) == "closed":
            concurrency = DEFAULT_CONCURRENCY
        return Workload(
            model=model,
            load=Load(
                concurrency, config.request_rate, "constant" if config.arrival_pattern == "constant" else "poisson"
            ),
            endpoint="chat" if config.endpoint_type == "chat" else "completions",
            requests=requests,
            duration_s=config.benchmark_duration,
            warmup_requests=config.warmup_request_count,
            input_tokens_mean=config.isl,
            input_tokens_stddev=config.isl_stddev,
            output_tokens_mean=config.osl,
            output_tokens_stddev=config.osl_stddev,
            ignore_eos=config.ignore_eos,
            seed=seed if config.random_seed is None else config.random_seed,
            request_timeout_s=config.request_timeout_seconds,
            request_slos=dict(request_slos),
        )

    @property
    def _until_steady(self) -> bool:
        """Unless the user says something else, a load begins when the service is warm."""
        given = self.config.model_fields_set & {"warmup_request_count", "warmup_duration"}
        return self.config.warmup_until_steady or not (given or "warmup_until_steady" in self.config.model_fields_set)

    def described(self, workload: Workload) -> str:
        """With the file or the data set in place of lengths, and the number of answers that a load waits for."""
        config, text = self.config, super().described(workload)
        if self._until_steady:
            text = text.replace(", no warm-up", ", after a warm-up until the service is steady")
        source = Path(config.input_file).name if config.input_file else config.public_dataset
        if source:
            text = f"requests of {source}; {text.split('; ')[1]}"
        least = [f"{config.benchmark_min_requests} answers"] if config.benchmark_min_requests else []
        per_user = config.benchmark_min_requests_per_user
        least += [f"{per_user:g} answers for each user"] if per_user else []
        return f"{text}; at least {' and '.join(least)}" if least else text

    def longest_s(self, workload: Workload) -> float | None:
        """Several durations where a load waits for a number of answers."""
        waits = self.config.benchmark_min_requests or self.config.benchmark_min_requests_per_user
        return workload.duration_s * LONGEST if waits and workload.duration_s is not None else workload.duration_s

    def guesses(self) -> list[str]:
        """Lengths, and the length of a load."""
        given, found = self.config.model_fields_set, []
        if not given & {"isl", "osl", "sequence_distribution", "input_file", "public_dataset", "fixed_schedule"}:
            found.append(
                f"the lengths are a guess: prompts of {self.config.isl:g} tokens and answers of {self.config.osl:g}; "
                "describe your requests in [loadgen] (isl, osl, or input_file)"
            )
        if not given & {"request_count", "conversation_num", "benchmark_duration", "fixed_schedule"}:
            found.append(
                f"the length of a load is a guess: {DEFAULT_REQUESTS} requests, which is short for many users; set "
                "benchmark_duration and benchmark_min_requests_per_user in [loadgen]"
            )
        return found

    def no_power(self, nodes: Sequence[Node]) -> str:
        """Nodes elsewhere need an exporter; this machine must have accelerators or processors that tell it."""
        if self.config.gpu_telemetry:
            return ""
        elsewhere = [node.host for node in nodes if not is_here(node.host)]
        if elsewhere:
            return f"{', '.join(elsewhere)}: not this machine, and gpu_telemetry names no exporter there"
        reasons = [devices_without_power(node.devices or None) for node in nodes]
        return "; ".join(
            f"this machine does not tell its power ({reason})" for reason in dict.fromkeys(reasons) if reason
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The file of requests, certificates, and a template that is a file."""
        return tuple(path for path in self._files.values() if path and len(path) < MOST_PATH and Path(path).is_file())

    @property
    def _files(self) -> dict[str, str]:
        """The options that name files, as whole paths: the load generator runs in another directory."""
        config = self.config
        return {
            "input_file": _absolute(config.input_file),
            "ca_file": _absolute(config.ca_file),
            "client_cert": _absolute(config.client_cert),
            "client_key": _absolute(config.client_key),
            "tokenizer": config.tokenizer if config.tokenizer == "builtin" else _absolute(config.tokenizer),
            "payload_template": _absolute(config.payload_template, only_if_there=True),
        }

    def command(self, workload: Workload, url: str) -> Command:
        """``python -P -m swarmtune.loadgen spec.json``; the spec travels with the command."""
        return self.command_for(workload, LoadedService(url))

    def command_for(self, workload: Workload, service: LoadedService) -> Command:
        """The same, with the devices of the service and its metrics read beside the run."""
        options = self.options(workload)
        spec = Spec(
            url=(service.url,), model=workload.model, seed=workload.seed, request_slos=workload.request_slos,
            options=options, early_stop=workload.early_stop,
            nodes=tuple(ServiceNode(host=node.host, devices=node.devices) for node in service.nodes),
            metrics_url=service.metrics_url, power_needed=service.power_needed, service_token=service.token,
        )  # fmt: skip
        secret = spec.secret_environment()
        return Command(
            argv=(sys.executable, "-P", "-m", "swarmtune.loadgen", SPEC_FILE),
            files=(File(SPEC_FILE, spec.to_json()),),
            env=secret,
            secrets=frozenset(secret),
        )

    def options(self, workload: Workload) -> LoadgenOptions:
        """Those of the section, with this workload's load and length."""
        return self.config.model_copy(
            update={
                "concurrency": workload.load.concurrency,
                "request_rate": workload.load.request_rate,
                "request_count": workload.requests,
                "benchmark_duration": workload.duration_s,
                "warmup_request_count": workload.warmup_requests,
                "warmup_until_steady": self._until_steady,
                **self._files,
            }
        )

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``measurement.json``."""
        path = directory / MEASUREMENT_FILE
        try:
            measurement = from_plain(json.loads(path.read_text()), Measurement)
            values = [*measurement.blocks.items(), *((name, (value,)) for name, value in measurement.metrics.items())]
            strange = [name for name, numbers in values if not all(map(math.isfinite, numbers))]
        except OSError as error:
            raise BenchmarkParseError(
                f"The load generator left no {path}: {error.strerror}. Its output says why."
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, SwarmTuneError) as error:
            raise BenchmarkParseError(f"{path} does not hold a measurement: {error!r}") from error
        if strange:
            raise BenchmarkParseError(f"{path} holds values that are no numbers: {', '.join(strange)}")
        return measurement


def _absolute(path: str, *, only_if_there: bool = False) -> str:
    """The whole path of a file that an option names."""
    if not path or (only_if_there and not (len(path) < MOST_PATH and Path(path).expanduser().is_file())):
        return path
    return str(Path(path).expanduser().absolute())
