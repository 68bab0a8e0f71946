"""``ais_bench --mode perf`` (AISBench of the Ascend community) as a load generator.

Its TPOT is (last - first chunk) / (tokens - 1) per request, as ours; its ITL is the gap between chunks: our icl, so there is
no itl here. It rounds times to 0.1 ms, interpolates percentiles (numpy), and a server without usage is counted with the
tokenizer, which it looks for in the model's folder. A TPOT that was not measured (answers of one token, or in one piece)
counts as 0 in its statistics; N says of how many it was. What it cannot do: a seed (lengths and gaps differ every time), a
duration, a timeout of requests, goodput (the tuner takes throughput with SLOs where no objective is named), prompts that
differ: its synthetic prompts are "A A A ...", so that a prefix cache knows them all. A run without any success leaves no
result.
Source of the flags and keys: ais_bench_benchmark 3.1.20260630, benchmark/cli/argument_parser.py and benchmark/calculators.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.adapters.tool import (
    DEFAULT_REQUESTS,
    ToolBenchmark,
    ToolConfig,
    arguments,
    measured,
    others_mistakes,
    program,
    read_result,
    request_count,
)
from swarmtune.loadgen.adapters.vllm_bench import PerformanceConfig
from swarmtune.records import Command, File, Measurement
from swarmtune.workload import Workload

CONFIGS = "configs"  # where the tool looks for what its arguments name
OURS = "swarmtune"  # name of the configs that we write
PLACEHOLDERS = frozenset({"", "models", "datasets", "mode"})
STAGE = "total"  # all that was measured
NEGLIGIBLE = 0.01  # share of answers without a TPOT, which the tool counts as 0, that moves no percentile to speak of
SAMPLES = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "ITL": "icl_ms", "E2EL": "e2el_ms"}
LENGTHS = {"InputTokens": "isl", "OutputTokens": "osl"}
STATISTICS = {"Average": "mean", "Min": "min", "Max": "max", "Median": "p50"} | {
    name: name.lower() for name in ("P75", "P90", "P95", "P99")
}  # 8 are the most it takes
_NUMBER = re.compile(
    r"([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|[-+]?inf)(?: +(\S+))?", re.IGNORECASE
)

MODEL_CONFIG = """from ais_bench.benchmark.models import {type}

models = [
    dict(
        attr="service", type={type}, abbr="swarmtune", path={tokenizer}, model={model}, url={url}, stream=True,
        request_rate={rate}, traffic_cfg=dict(burstiness={burstiness}), retry=1, batch_size={concurrency},
        max_out_len={output_tokens}, generation_kwargs=dict(temperature=0.0, ignore_eos={ignore_eos}),
    )
]
"""
DATASET_CONFIG = """from ais_bench.benchmark.datasets import MATHEvaluator, SyntheticDataset
from ais_bench.benchmark.openicl.icl_inferencer import GenInferencer
from ais_bench.benchmark.openicl.icl_prompt_template import PromptTemplate
from ais_bench.benchmark.openicl.icl_retriever import ZeroRetriever

synthetic_datasets = [
    dict(
        abbr="synthetic", type=SyntheticDataset,
        config=dict(
            Type="string", RequestCount={requests}, TrustRemoteCode=False,
            StringConfig=dict(Input={input}, Output={output}),
        ),
        reader_cfg=dict(input_columns=["question", "max_out_len"], output_column="answer"),
        infer_cfg=dict(
            prompt_template=dict(type=PromptTemplate, template="{{question}}"),
            retriever=dict(type=ZeroRetriever), inferencer=dict(type=GenInferencer),
        ),
        eval_cfg=dict(evaluator=dict(type=MATHEvaluator)),
    )
]
"""
SUMMARIZER_CONFIG = f"""from ais_bench.benchmark.calculators import DefaultPerfMetricCalculator
from ais_bench.benchmark.summarizers import DefaultPerfSummarizer

summarizer = dict(
    attr="performance", type=DefaultPerfSummarizer,
    calculator=dict(type=DefaultPerfMetricCalculator, stats_list={list(STATISTICS)}),
)
"""


class AisCommand(BaseModel):
    """The table ``[ais_bench.command]`` of the older tuner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: str = Field("", description="its model config; only read for whether it names the chat API, ours is used")
    datasets: str = Field(
        "", description="one of its datasets, for example gsm8k_gen_0_shot_cot_str_perf; else synthetic"
    )
    mode: str = Field("perf", description="perf; nothing else measures")
    num_prompts: int | str = Field(DEFAULT_REQUESTS, description="requests to send")
    work_dir: str = Field("", description="read for older files; results are in the trial's directory")
    others: str | tuple[str, ...] = Field("", description="further arguments, before those of ais_bench.others")


class AisBenchConfig(ToolConfig):
    """The section ``[ais_bench]``. Lengths in tokens."""

    executable: str = Field("ais_bench", min_length=1, description="the ais_bench program: a name or a path")
    command: AisCommand = Field(default_factory=AisCommand, description="what to send")
    performance_config: PerformanceConfig = Field(
        default_factory=PerformanceConfig, description="statistics for the older tuner's cost"
    )
    process_name: str = Field("", description="read for older files; every process of the tool is known and ended")
    output_path: str = Field("", description="read for older files; results are in the trial's directory")
    work_path: str = Field("", description="read for older files; the tool runs in the trial's directory")
    model: str = Field("", description="read for older files; the engine's model name is used")
    path: str = Field("", description="read for older files; tokenizer says where the model's tokenizer is")
    host_ip: str = Field("", description="read for older files; the service's own address is used")
    host_port: int | str = Field("", description="read for older files; the service's own address is used")
    max_out_len: int | str = Field("", description="read for older files; output_tokens is the length of an answer")
    target_field: tuple[dict[str, Any], ...] = Field(
        (), description="read for older files; [load_search] finds the load"
    )
    best_concurrency_coefficient: float = Field(3, description="read for older files; [load_search] finds the load")
    best_concurrency_threshold: float = Field(200, description="read for older files; [load_search] finds the load")

    @property
    def requests(self) -> int | None:
        """Requests to send; None where an older file still has a placeholder."""
        given = str(self.command.num_prompts)
        return int(given) if given.isascii() and given.isdigit() and int(given) else None


class AisBenchBenchmark(ToolBenchmark):
    """One run is one load; the result files are the tool's own CSV (latencies) and JSON (counts)."""

    name = "ais_bench"
    config: AisBenchConfig
    Config = AisBenchConfig
    statistics = tuple(STATISTICS.values())
    samples = (*SAMPLES.values(), *LENGTHS.values())
    scalars = ("mean_concurrency",)
    needed = ("--mode", "--models", "--summarizer", "--config-dir", "--work-dir")

    def mistakes(self) -> list[str]:
        """Adds: placeholders that were never filled in, a mode that does not measure, and no tokenizer."""
        config, found = self.config, super().mistakes()
        found += others_mistakes(f"{self.name}.command.others", lambda: arguments(config.command.others), self.needed)
        if config.requests is None:
            found.append(f"ais_bench.command.num_prompts: {config.command.num_prompts!r} is not a whole number above 0")
        if config.command.mode not in ("perf", *PLACEHOLDERS):
            found.append(f"ais_bench.command.mode: {config.command.mode!r} measures nothing; write perf")
        if config.tokenizer and not Path(config.tokenizer).is_dir():
            found.append(
                f"ais_bench.tokenizer: {config.tokenizer!r} is not a folder; ais_bench needs the model's (tokenizer.json)"
            )
        elif not self.tokenizer and self.model_folder is not None:
            beside = f"{self.model_folder} holds none" if self.model_folder else "no folder of the model is known here"
            found.append(
                f"ais_bench.tokenizer: ais_bench needs the model's tokenizer, and {beside}; give the folder that holds its "
                "tokenizer.json, or take -b swarmtune"
            )
        return found

    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model. ``seed`` and ``request_slos`` are beyond the tool."""
        return super().workload(model, seed, request_slos)

    def command(self, workload: Workload, url: str) -> Command:
        """``ais_bench --mode perf --models swarmtune --datasets ...``, with configs of ours beside it."""
        config = self.config
        datasets = config.command.datasets
        named = datasets not in PLACEHOLDERS
        requests = request_count(workload)
        flags = {
            "--mode": "perf",
            "--models": OURS,
            "--datasets": datasets if named else OURS,
            "--summarizer": OURS,
            "--config-dir": CONFIGS,
            "--work-dir": ".",
            "--num-prompts": str(requests),
            "--num-warmups": str(workload.warmup_requests),
        }
        others = [*arguments(config.command.others), *arguments(config.others)]
        written = {argument.partition("=")[0] for argument in others}
        argv = [program(config.executable)]
        for flag, value in flags.items():
            argv += [] if flag in written else [flag, value]
        synthetic = DATASET_CONFIG.format(
            requests=requests,
            input=_length(workload.input_tokens_mean, workload.input_tokens_stddev),
            output=_length(workload.output_tokens_mean, workload.output_tokens_stddev),
        )
        files = (
            File(f"{CONFIGS}/models/{OURS}.py", self._model(workload, url, requests)),
            File(f"{CONFIGS}/datasets/{OURS}.py", synthetic),
            File(f"{CONFIGS}/summarizers/{OURS}.py", SUMMARIZER_CONFIG),
        )
        return Command(argv=(*argv, *others), env=config.env, files=files)

    def _model(self, workload: Workload, url: str, requests: int) -> str:
        chat = workload.endpoint == "chat" or "chat" in self.config.command.models
        load = workload.load
        return MODEL_CONFIG.format(
            type="VLLMCustomAPIChat" if chat else "VLLMCustomAPI",
            tokenizer=_text(self.tokenizer),
            model=_text(workload.model),
            url=_text(url),
            rate=f"{load.request_rate:g}" if load.request_rate else "0",
            burstiness=1.0 if load.arrivals == "poisson" else 0.0,  # of the gamma distribution of gaps
            concurrency=load.concurrency or requests,  # it has no rate without a limit on the users
            output_tokens=round(workload.output_tokens_mean),
            ignore_eos=workload.ignore_eos,
        )

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``TIME/performances/swarmtune/DATASET.csv`` and ``.json``. BenchmarkParseError if none."""
        tables = sorted(directory.rglob("*.csv"))
        if len(tables) != 1:
            why = "Name one dataset in ais_bench.command.datasets." if tables else "Its output says why."
            message = f"ais_bench left {len(tables)} tables of latencies (*.csv) below {directory}, not 1. {why}"
            raise BenchmarkParseError(message)
        path = tables[0]

        def understood(counts: str) -> Measurement:
            told = json.loads(counts)
            return read_result(path, "ais_bench", lambda table: measurement(rows(table), told))

        return read_result(path.with_suffix(".json"), "ais_bench", understood)


def rows(table: str) -> list[dict[str, str]]:
    """The rows of the tool's table. ValueError or csv.Error if one has other columns than the head: it is half written."""
    found = list(csv.DictReader(io.StringIO(table, newline="")))
    if any(None in row or None in row.values() for row in found):
        raise ValueError("a row has other columns than the head")
    return found


def measurement(table: list[dict[str, Any]], counts: Mapping[str, Any]) -> Measurement:
    """The tool's result in our names. KeyError, ValueError or TypeError if it is not one."""
    stages = {row["Stage"] for row in table}
    stage = STAGE if STAGE in stages or len(stages) != 1 else next(iter(stages))
    common = {name: value[stage] for name, value in counts.items() if stage in value}
    metrics = {
        "completed": _number(common["Success Requests"]),
        "failed": _number(common["Failed Requests"]),
        "duration_s": _number(common["Benchmark Duration"], "ms") / 1000.0,
        "total_input_tokens": _number(common["Total Input Tokens"]),
        "total_output_tokens": _number(common["Total Generated Tokens"]),
        "mean_concurrency": _number(common["Concurrency"]),
    }
    of_stage = [row for row in table if row["Stage"] == stage]
    named = {row["Performance Parameters"]: row for row in of_stage}
    if len(named) < len(of_stage):
        raise ValueError("it holds two rows of one latency")
    if not {"TTFT", "E2EL"} <= set(named):
        raise ValueError("it holds no TTFT: the server streams nothing")
    for names, unit in ((SAMPLES, "ms"), (LENGTHS, "")):
        for theirs, ours in names.items():
            if theirs in named:
                row = named[theirs]
                values = {to: _number(row[stat], unit) for stat, to in STATISTICS.items() if row.get(stat)}
                if theirs == "TPOT":
                    values = _of_those_measured(values, row, named["E2EL"])
                metrics |= {f"{statistic}_{ours}": value for statistic, value in values.items()}
    return measured(metrics, {})


def _of_those_measured(values: dict[str, float], row: Mapping[str, str], every: Mapping[str, str]) -> dict[str, float]:
    """The statistics of TPOT without the zeros of answers that have none: N of the row are those that have one."""
    some, all_ = (_number(one["N"]) if one.get("N") else 0.0 for one in (row, every))
    if not 0 < some < all_:
        return values
    kept = {name: value for name, value in values.items() if name == "max" or (all_ - some) <= NEGLIGIBLE * all_}
    return {**kept, "mean": values["mean"] * all_ / some}


def _number(cell: Any, unit: str = "") -> float:
    """The number in "12.3 ms" and in "1,012.3 ms"; ValueError if it has another unit."""
    found = _NUMBER.fullmatch(str(cell).strip())
    if found is None or (found[2] or "") != unit:
        raise ValueError(f"{cell!r} is not in {unit or 'plain numbers'}")
    return float(found[1].replace(",", ""))


def _text(value: str) -> str:
    """A literal of Python: JSON's escapes are Python's."""
    return json.dumps(value, ensure_ascii=False)


def _length(mean: float, stddev: float) -> dict[str, Any]:
    """A distribution of lengths in its words."""
    middle = max(1, round(mean))
    if not stddev:
        return {"Method": "uniform", "Params": {"MinValue": middle, "MaxValue": middle}}
    most = max(middle, round(mean + 10 * stddev))
    params = {"Mean": mean, "Var": stddev**2, "MinValue": 1, "MaxValue": most}
    return {"Method": "gaussian", "Params": params}
