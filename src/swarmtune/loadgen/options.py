"""All options of a load test: ``[loadgen]`` of config.toml and the options of ``swarmtune bench``.

One table for both. The names are AIPerf's where AIPerf has one (``--request-rate`` is ``request_rate``), units are in the
name or the description. What a combination means is decided in timing.py (load) and dataset.py (data).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from swarmtune import registry
from swarmtune.errors import ConfigurationError

MOST_TOKENS = 10_000_000  # of one text: beyond any model's context
MOST_HELD_TOKENS = 500_000_000  # of all prompts that are in memory at one time: some 4 GB
MOST_USERS = 1_000_000  # also turns of a session, texts of a request, prefixes
MOST_REQUESTS = 100_000_000
MOST_RATE = 1_000_000  # requests per second
MOST_SECONDS = 100_000_000  # three years
MOST_STAMP_MS = 4_000_000_000_000  # Unix time, too
MOST_FACTOR = 1_000_000
OURS = ("content-length", "transfer-encoding", "connection")  # headers that the wire needs as they are
Pattern = Literal["constant", "poisson", "gamma", "concurrency_burst"]
Distribution = Literal["normal", "lognormal", "uniform", "exponential"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _registered(name: str) -> str:
    """ValueError names the near one. Each process loads the plugins itself: load generator and workers are several."""
    registry.load_plugins()
    try:
        registry.endpoints.check(name)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error
    return name


EndpointName = Annotated[str, AfterValidator(_registered)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def option(group: str, default: Any, description: str, *, registered: str = "", **bounds: Any) -> Any:
    """A field that the command line shows under ``group``. ``registered``: the registry whose names are its values."""
    extra: JsonDict = {"group": group, "registered": registered}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


class LoadgenOptions(BaseModel):
    """The section ``[loadgen]``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # --- endpoint: how a request looks -----------------------------------------------------------------------------
    endpoint_type: EndpointName = option("endpoint", "completions", "API to call", registered="endpoints")
    custom_endpoint: str = option("endpoint", "", "path of the API where it is not the usual one, e.g. /v2/generate")
    streaming: bool = option("endpoint", True, "ask for the answer token by token, where the endpoint can")
    header: Texts = option("endpoint", (), "further HTTP header, 'Name: value'; values are never stored")
    extra_inputs: Texts = option("endpoint", (), "further field of every body: 'name:value' or a JSON object")
    tokenizer: str = option(
        "endpoint", "", "folder of the model's tokenizer.json, for answers whose tokens the service does not state; needs "
        "the library tokenizers; 'builtin': the built-in one",
    )  # fmt: skip
    ignore_eos: bool = option("endpoint", True, "ask for answers of exactly the drawn length")
    payload_template: str = option(
        "endpoint", "", "template endpoint: the body as JSON with {{prompt}}, {{model}}, {{output_tokens}}, or a file"
    )
    response_field: str = option(
        "endpoint", "text", "template endpoint: where the text of an answer is, e.g. outputs.0.text"
    )
    request_timeout_seconds: float = option(
        "endpoint", 120.0, "a request without its whole answer by then has failed, s", gt=0, le=MOST_SECONDS
    )
    connection_reuse_strategy: Literal["pooled", "never", "sticky-user-sessions"] = option(
        "endpoint", "pooled", "a new connection for each request, or for each session, or as few as possible"
    )
    proxy: str = option("endpoint", "", "HTTP proxy; default the environment's http_proxy, https_proxy and no_proxy")
    tls_verify: bool = option("endpoint", True, "check the certificate of an https endpoint")
    ca_file: str = option("endpoint", "", "certificates to trust besides the system's, a PEM file")
    client_cert: str = option("endpoint", "", "certificate to show to an https endpoint that wants one, a PEM file")
    client_key: str = option("endpoint", "", "its private key, a PEM file; default: in the same file")
    source_addresses: Texts = option(
        "endpoint", (), "local address to connect from; several share the connections (more than 28,000 need it)"
    )

    # --- data: what is sent ----------------------------------------------------------------------------------------
    isl: float = option("data", 64, "mean prompt length, tokens", ge=1, le=MOST_TOKENS)
    isl_stddev: float = option("data", 0, "standard deviation of the prompt length, tokens", ge=0, le=MOST_TOKENS)
    isl_distribution: Distribution = option("data", "normal", "shape of the prompt lengths (all are cut off at 1)")
    osl: float = option("data", 32, "mean answer length, tokens", ge=1, le=MOST_TOKENS)
    osl_stddev: float = option("data", 0, "standard deviation of the answer length, tokens", ge=0, le=MOST_TOKENS)
    osl_distribution: Distribution = option("data", "normal", "shape of the answer lengths (all are cut off at 1)")
    sequence_distribution: str = option(
        "data", "", "pairs of lengths with weights instead: 'ISL|stddev,OSL|stddev:percent;...'"
    )
    shared_system_prompt_length: int = option(
        "data", 0, "tokens of a system prompt that all requests share", ge=0, le=MOST_TOKENS
    )
    user_context_prompt_length: int = option(
        "data", 0, "tokens that each session repeats in all its turns", ge=0, le=MOST_TOKENS
    )
    prompt_prefix_pool_size: int = option(
        "data", 0, "number of prefixes of which each session draws one", ge=0, le=MOST_USERS
    )
    prompt_prefix_length: int = option("data", 0, "length of those prefixes, tokens", ge=0, le=MOST_TOKENS)
    num_dataset_entries: int = option(
        "data", 0, "number of different synthetic sessions, used again in their order; 0: each is another one",
        ge=0, le=MOST_REQUESTS,
    )  # fmt: skip
    prompt_batch_size: int = option(
        "data", 1, "texts in one embeddings request, passages in one of rankings", ge=1, le=MOST_USERS
    )
    input_file: str = option("data", "", "file of requests, conversations or a trace, instead of synthetic prompts")
    custom_dataset_type: Literal[
        "auto", "single_turn", "multi_turn", "random_pool", "sharegpt",
        "mooncake_trace", "bailian_trace", "azure_trace", "burst_gpt_trace",
    ] = option("data", "auto", "format of the input file; auto looks at it")  # fmt: skip
    public_dataset: Literal["", "sharegpt"] = option("data", "", "a public data set, fetched once and kept")
    dataset_sampling_strategy: Literal["sequential", "shuffle", "random"] = option(
        "data", "sequential", "order in which the entries of a file are used"
    )
    isl_block_size: int = option(
        "data", 0, "tokens per hash_id of a trace; 0: 512 for Mooncake, 16 for Bailian", ge=0, le=MOST_TOKENS
    )
    max_isl: int | None = option(
        "data", None, "leave out entries of a file with longer prompts, tokens", ge=1, le=MOST_TOKENS
    )
    max_osl: int | None = option("data", None, "cut longer answers of a file to this, tokens", ge=1, le=MOST_TOKENS)
    random_seed: int | None = option(
        "data", None, "same seed: same requests and same schedule, byte for byte", ge=0, lt=2**63
    )

    # --- conversations ---------------------------------------------------------------------------------------------
    conversation_turn_mean: float = option(
        "conversation", 1, "mean number of turns of a synthetic session", ge=1, le=MOST_USERS
    )
    conversation_turn_stddev: float = option(
        "conversation", 0, "standard deviation of the number of turns", ge=0, le=MOST_USERS
    )
    conversation_turn_delay_mean: float = option(
        "conversation", 0, "mean think time before a further turn, ms", ge=0, le=1000 * MOST_SECONDS
    )
    conversation_turn_delay_stddev: float = option(
        "conversation", 0, "its standard deviation, ms", ge=0, le=1000 * MOST_SECONDS
    )
    conversation_turn_delay_ratio: float = option("conversation", 1, "factor on all think times", ge=0, le=MOST_FACTOR)

    # --- load: when it is sent -------------------------------------------------------------------------------------
    concurrency: int | None = option(
        "load", None, "requests at a time, or the ceiling of a rate; 8 if no other load is given", ge=1, le=MOST_USERS
    )
    prefill_concurrency: int | None = option(
        "load", None, "ceiling of requests that wait for their first token", ge=1, le=MOST_USERS
    )
    request_rate: float | None = option("load", None, "arrivals per second", gt=0, le=MOST_RATE)
    arrival_pattern: Pattern = option("load", "poisson", "shape of the arrivals of a rate")
    arrival_smoothness: float = option(
        "load",
        1.0,
        "gamma: shape of the gaps; 1 is Poisson, below bursty, above even (vLLM's burstiness)",
        gt=0,
        le=MOST_FACTOR,
    )
    request_count: int | None = option(
        "load", None, "requests to measure; 100 if nothing else ends the run", ge=1, le=MOST_REQUESTS
    )
    benchmark_duration: float | None = option("load", None, "length of the measurement, s", gt=0, le=MOST_SECONDS)
    benchmark_min_requests: int = option(
        "load",
        0,
        "with a duration: go on until so many requests have ended, at most 10 times as long",
        ge=0,
        le=MOST_REQUESTS,
    )
    benchmark_min_requests_per_user: float = option(
        "load",
        0,
        "the same for each user of a closed loop: 3 = three answers for each, on average",
        ge=0,
        le=MOST_REQUESTS,
    )
    benchmark_grace_period: float = option(
        "load",
        10.0,
        "wait for running requests after the duration's end, s; then they are incomplete",
        ge=0,
        le=MOST_SECONDS,
    )
    conversation_num: int | None = option("load", None, "sessions to measure", ge=1, le=MOST_REQUESTS)
    concurrency_ramp_duration: float = option(
        "load", 0, "raise the concurrency from 1 over this time, s", ge=0, le=MOST_SECONDS
    )
    prefill_concurrency_ramp_duration: float = option(
        "load", 0, "the same for the prefill concurrency, s", ge=0, le=MOST_SECONDS
    )
    request_rate_ramp_duration: float = option(
        "load", 0, "raise the rate from 0 over this time, s", ge=0, le=MOST_SECONDS
    )
    request_cancellation_rate: float = option("load", 0, "share of requests to cancel, percent", ge=0, le=100)
    request_cancellation_delay: float = option("load", 0, "time from sending to cancelling, s", ge=0, le=MOST_SECONDS)
    user_centric_rate: float | None = option(
        "load",
        None,
        "requests per second of all users together, each at even intervals through its session",
        gt=0,
        le=MOST_RATE,
    )
    num_users: int | None = option("load", None, "users of --user-centric-rate", ge=1, le=MOST_USERS)
    fixed_schedule: bool = option("load", False, "send at the timestamps of the input file")
    fixed_schedule_auto_offset: bool = option("load", True, "the first timestamp of the slice is time 0")
    fixed_schedule_start_offset: float | None = option(
        "load", None, "use entries from this timestamp on, ms", ge=0, le=MOST_STAMP_MS
    )
    fixed_schedule_end_offset: float | None = option(
        "load", None, "use entries up to this timestamp, ms", ge=0, le=MOST_STAMP_MS
    )
    replay_speedup: float = option(
        "load", 1.0, "divide all timestamps and think times of a file by this", gt=0, le=MOST_FACTOR
    )

    # --- warm-up ---------------------------------------------------------------------------------------------------
    warmup_request_count: int = option(
        "warm-up", 0, "requests before the measurement, not counted", ge=0, le=MOST_REQUESTS
    )
    warmup_duration: float | None = option("warm-up", None, "length of the warm-up, s", gt=0, le=MOST_SECONDS)
    warmup_until_steady: bool = option(
        "warm-up", False, "end the warm-up when answers no longer become faster (docs/loadgen.md); 120 s at most"
    )
    warmup_concurrency: int | None = option(
        "warm-up", None, "concurrency of the warm-up, if another", ge=1, le=MOST_USERS
    )
    warmup_request_rate: float | None = option("warm-up", None, "rate of the warm-up, if another", gt=0, le=MOST_RATE)
    warmup_grace_period: float | None = option(
        "warm-up",
        None,
        "wait this long for the warm-up's last answers, s; default: until they have come",
        ge=0,
        le=MOST_SECONDS,
    )

    # --- measurement: what is trusted ------------------------------------------------------------------------------
    stop_when_decided: bool = option(
        "measurement", False, "end as soon as the goodput limits are surely kept or surely broken"
    )
    slo_attainment_fraction: float = option(
        "measurement", 0.95, "share of requests that must keep the goodput limits, for --stop-when-decided", gt=0, lt=1
    )
    confidence_level: float = option("measurement", 0.95, "of all confidence intervals", gt=0.5, lt=1)
    max_lag_ms: float = option(
        "measurement",
        25.0,
        "rate or schedule: p99 of our own lateness in sending above which a run is invalid, ms",
        gt=0,
        le=1000 * MOST_SECONDS,
    )
    max_idle_share: float = option(
        "measurement",
        0.05,
        "closed loop: share of the slots' time that we left idle above which a run is invalid",
        gt=0,
        le=1,
    )
    max_cpu_share: float = option(
        "measurement",
        0.95,
        "a worker's CPU use in its busiest second above which a run is degraded, share of one core",
        gt=0,
        le=1,
    )
    max_unsure_share: float = option(
        "measurement",
        0.05,
        "share of chunks whose stamp is not certain to 1 ms above which a run is invalid",
        gt=0,
        le=1,
    )
    max_contended_cpu_share: float = option(
        "measurement",
        0.3,
        "share of the service's CPUs that other programs use while it waits for one above which a run is invalid",
        gt=0,
        le=1,
    )
    max_other_device_share: float = option(
        "measurement",
        0.3,
        "share of the time in which other programs compute on the service's accelerator above which a run is invalid",
        gt=0,
        le=1,
    )
    slice_duration: float | None = option(
        "measurement", None, "also leave the results of each so many seconds, in timeslices.csv", gt=0, le=MOST_SECONDS
    )
    server_metrics: Texts = option(
        "measurement",
        (),
        "Prometheus address to read during the run; 'auto': URL/metrics; the tuner reads its engine's unless 'off'",
    )
    gpu_telemetry: Texts = option(
        "measurement",
        (),
        "Prometheus address of a device exporter (DCGM, NPU) to read, for a service on another machine; 'off': read neither "
        "devices nor CPUs here",
    )

    # --- machine ---------------------------------------------------------------------------------------------------
    workers_max: int = option("workers", 1, "processes that send", ge=1, le=256)
    wire: Literal["auto", "native", "python"] = option(
        "workers", "auto", "hot path in C or in Python; auto: in C where it was compiled"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rules = (
            (sendable(self.extra_body()), "extra_inputs holds a number that JSON cannot send: NaN, or one beyond 64 bits"),
            (not self.fixed_schedule or self.input_file or self.public_dataset, "fixed_schedule needs an input_file"),
            (
                sum((self.fixed_schedule, self.user_centric_rate is not None, self.request_rate is not None)) <= 1,
                "only one of fixed_schedule, user_centric_rate and request_rate can be given",
            ),
            ((self.user_centric_rate is None) == (self.num_users is None), "user_centric_rate and num_users go together"),
            (self.benchmark_duration or not (self.benchmark_min_requests or self.benchmark_min_requests_per_user),
             "benchmark_min_requests and benchmark_min_requests_per_user need a benchmark_duration"),
            (self.user_centric_rate is None or self.conversation_turn_mean >= 2 or self.input_file,
             "user_centric_rate needs sessions of at least 2 turns (conversation_turn_mean)"),
            (self.request_count is None or self.conversation_num is None,
             "only one of request_count and conversation_num can be given"),
            (self.endpoint_type != "template" or self.payload_template, "the template endpoint needs a payload_template"),
            (not (self.prompt_prefix_pool_size and self.shared_system_prompt_length),
             "prompt_prefix_pool_size and shared_system_prompt_length exclude each other"),
            ((self.prompt_prefix_pool_size > 0) == (self.prompt_prefix_length > 0),
             "prompt_prefix_pool_size and prompt_prefix_length go together"),
            (self.input_file == "" or self.public_dataset == "", "give an input_file or a public_dataset, not both"),
            (not self.client_key or self.client_cert, "client_key needs a client_cert"),
            (all(self.source_addresses), "source_addresses has an empty item; leave the option out for any address"),
            (self.request_rate is None or self.arrival_pattern != "concurrency_burst",
             "concurrency_burst sends as fast as the concurrency allows: it takes no request_rate"),
            (not self.proxy or urlsplit(self.proxy if "//" in self.proxy else f"http://{self.proxy}").scheme == "http",
             "the proxy must be of the form http://host:port"),
            (all(is_http(text) for text in (*self.server_metrics, *self.gpu_telemetry)
                 if text not in ("auto", "off", "pynvml")),
             "server_metrics and gpu_telemetry are addresses such as http://host:9400/metrics, without a password"),
            ("auto" not in self.gpu_telemetry, "gpu_telemetry does not know 'auto'"),
            ("pynvml" not in self.server_metrics, "server_metrics does not know 'pynvml'"),
            (all(":" in text and text.isprintable() for text in self.header),
             "a header has the form 'Name: value', without line breaks"),
            (not any(text.partition(":")[0].strip().lower() in OURS for text in self.header),
             "content-length, transfer-encoding and connection are headers that every request gets by itself"),
            (all(_is_extra(text) for text in self.extra_inputs),
             "extra_inputs have the form 'name:value' or are a JSON object"),
            (self._held_tokens() <= MOST_HELD_TOKENS,
             f"{self._held_tokens():,.0f} tokens of prompts would be held in memory; at most {MOST_HELD_TOKENS:,} can be"),
        )  # fmt: skip
        broken = [message for kept, message in rules if not kept]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def _held_tokens(self) -> float:
        """Tokens of all synthetic prompts that are in memory at a time: those of the prefixes and of a session per user."""
        if self.input_file or self.public_dataset:
            return 0
        isl = self.isl + self.isl_stddev
        each = self.prompt_batch_size * (isl + self.user_context_prompt_length + self.prompt_prefix_length)
        session = (
            self.conversation_turn_mean + self.conversation_turn_stddev
        ) * each + self.shared_system_prompt_length
        return (
            session * (self.concurrency or self.num_users or 1)
            + self.prompt_prefix_pool_size * self.prompt_prefix_length
        )

    def extra_body(self) -> dict[str, Any]:
        """The fields of ``extra_inputs`` as one object; a value that reads as JSON is that,
        True and False are, too; else it is text."""
        body: dict[str, Any] = {}
        for text in self.extra_inputs:
            if text.lstrip().startswith("{"):
                body |= json.loads(text)
            else:
                name, _, value = text.partition(":")
                body[name.strip()] = _plain(value.strip())
        return body


def sendable(body: dict[str, Any]) -> bool:
    """Can this be sent as JSON, without a change?"""
    try:
        return bool(json.loads(orjson.dumps(body)) == body)
    except (TypeError, ValueError, RecursionError):
        return False


def is_http(text: str) -> bool:
    """An address that can be read, and shown: without name and password."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def _plain(text: str) -> Any:
    if text in ("True", "False"):  # as Python and AIPerf write them
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_extra(text: str) -> bool:
    if text.lstrip().startswith("{"):
        return isinstance(_plain(text), dict)
    name, colon, _ = text.partition(":")
    return bool(name.strip() and colon)
