"""Options of one run that contradict each other, or that would have no effect beside the others. The tuner's section may
hold them, as its load search varies the load; a run by hand is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swarmtune.loadgen.endpoints.base import LIMITS
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.plan import mode_of

Holds = Callable[[LoadgenOptions], bool]

FILE: Holds = lambda o: bool(o.input_file or o.public_dataset)  # noqa: E731 - the conditions of the table below
RATE: Holds = lambda o: o.request_rate is not None  # noqa: E731
CLOSED: Holds = lambda o: mode_of(o) == "closed"  # noqa: E731
WARM_UP: Holds = lambda o: bool(o.warmup_request_count or o.warmup_duration or o.warmup_until_steady)  # noqa: E731
SESSIONS: Holds = lambda o: o.conversation_turn_mean > 1 or o.conversation_turn_stddev > 0 or FILE(o)  # noqa: E731

BATCHES = ("embeddings", "rankings", "template")  # whose requests hold several texts
# fields of a body that an option sets
OWN = {
    "model": "--model", "stream": "--streaming", "prompt": "the data (--isl, --input-file)", "input": "the data",
    "messages": "the data (--input-file)", "inputs": "the data",
}  # fmt: skip
API_PATHS = {  # by endpoint_type, with which URLs are copied from programs
    "chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}  # fmt: skip
# option, what it needs to have an effect, that in words
NEEDS: tuple[tuple[str, Holds, str], ...] = (
    ("isl_distribution", lambda o: o.isl_stddev > 0 or o.isl_distribution == "normal", "--isl-stddev"),
    ("osl_distribution", lambda o: o.osl_stddev > 0 or o.osl_distribution == "normal", "--osl-stddev"),
    ("arrival_smoothness", lambda o: o.arrival_pattern == "gamma", "--arrival-pattern gamma"),
    ("request_rate_ramp_duration", RATE, "--request-rate"),
    ("concurrency_ramp_duration", lambda o: CLOSED(o) or o.concurrency is not None, "--concurrency"),
    ("prefill_concurrency_ramp_duration", lambda o: o.prefill_concurrency is not None, "--prefill-concurrency"),
    ("prefill_concurrency", lambda o: o.streaming, "--streaming: without it no first token is seen"),
    ("request_cancellation_delay", lambda o: o.request_cancellation_rate > 0, "--request-cancellation-rate"),
    ("fixed_schedule_auto_offset", lambda o: o.fixed_schedule, "--fixed-schedule"),
    ("fixed_schedule_start_offset", lambda o: o.fixed_schedule, "--fixed-schedule"),
    ("fixed_schedule_end_offset", lambda o: o.fixed_schedule, "--fixed-schedule"),
    ("replay_speedup", FILE, "--input-file"),
    ("custom_dataset_type", lambda o: bool(o.input_file), "--input-file"),
    ("dataset_sampling_strategy", FILE, "--input-file"),
    ("isl_block_size", FILE, "--input-file"),
    ("max_isl", FILE, "--input-file"),
    ("max_osl", FILE, "--input-file"),
    ("conversation_turn_delay_mean", SESSIONS, "--conversation-turn-mean above 1"),
    ("conversation_turn_delay_stddev", SESSIONS, "--conversation-turn-mean above 1"),
    ("conversation_turn_delay_ratio", SESSIONS, "--conversation-turn-mean above 1"),
    ("payload_template", lambda o: o.endpoint_type == "template", "--endpoint-type template"),
    ("response_field", lambda o: o.endpoint_type == "template", "--endpoint-type template"),
    ("benchmark_grace_period", lambda o: o.benchmark_duration is not None, "--benchmark-duration"),
    ("benchmark_min_requests_per_user", CLOSED, "a closed loop (--concurrency): with a rate, say --benchmark-min-requests"),
    ("warmup_concurrency", WARM_UP, "--warmup-request-count or --warmup-duration"),
    ("warmup_request_rate", WARM_UP, "--warmup-request-count or --warmup-duration"),
    ("warmup_grace_period", WARM_UP, "--warmup-request-count or --warmup-duration"),
    ("prompt_batch_size", lambda o: o.endpoint_type in BATCHES, "--endpoint-type embeddings, rankings or template"),
    ("slo_attainment_fraction", lambda o: o.stop_when_decided, "--stop-when-decided"),
)  # fmt: skip

# two options that say the same thing differently
PAIRS = (
    *(("sequence_distribution", name) for name in (
        "isl", "isl_stddev", "isl_distribution", "osl", "osl_stddev", "osl_distribution", "input_file", "public_dataset",
    )),
    *((name, "input_file") for name in (
        "shared_system_prompt_length", "user_context_prompt_length", "prompt_prefix_pool_size", "prompt_prefix_length",
        "conversation_turn_stddev", "isl", "isl_stddev", "isl_distribution",
    )),
)  # fmt: skip


def contradictions(options: LoadgenOptions, urls: Sequence[str]) -> list[str]:
    """One sentence for each."""
    given = options.model_fields_set
    found = [f"{_flag(name)} needs {words}" for name, holds, words in NEEDS if name in given and not holds(options)]
    found += [
        f"{_flag(one)} and {_flag(other)} exclude each other: give one of them"
        for one, other in PAIRS
        if one in given and other in given and getattr(options, one) and getattr(options, other)
    ]
    if "arrival_pattern" in given and options.arrival_pattern != "concurrency_burst" and not RATE(options):
        found.append(f"--arrival-pattern {options.arrival_pattern} needs --request-rate")
    if options.ca_file and not options.tls_verify:
        found.append("--ca-file and --no-tls-verify exclude each other: give one of them")
    if not any(url.startswith("https:") for url in urls):
        secure = ("ca_file", "client_cert", "tls_verify")
        found += [f"{_flag(name)} needs an https:// address" for name in secure if name in given]
    found += filter(None, (_other_path(url, options) for url in urls))
    start, end = options.fixed_schedule_start_offset, options.fixed_schedule_end_offset
    if start is not None and end is not None and start > end:
        found.append("--fixed-schedule-start-offset is above --fixed-schedule-end-offset: nothing would be sent")
    extra = options.extra_body()
    found += [f"--extra-inputs {name}: {way} sets it" for name, way in OWN.items() if name in extra]
    if "osl" in given and (limits := sorted(extra.keys() & LIMITS)):
        found.append(f"--extra-inputs {limits[0]} and --osl exclude each other: give one of them")
    found += _twice("--header", [text.partition(":")[0].strip().lower() for text in options.header])
    plain = [text for text in options.extra_inputs if not text.lstrip().startswith("{")]
    return found + _twice("--extra-inputs", [text.partition(":")[0].strip() for text in plain])


def _other_path(url: str, options: LoadgenOptions) -> str:
    """That a URL ends with the path of another API than the one that is called; empty: it does not."""
    path = url.partition("?")[0].rstrip("/")
    kind = next((kind for kind, end in API_PATHS.items() if path.endswith(end)), None)
    if kind is None or kind == options.endpoint_type or options.custom_endpoint:
        return ""
    return f"--url ends with {API_PATHS[kind]}: give --endpoint-type {kind}, or leave the path out"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _twice(flag: str, names: Sequence[str]) -> list[str]:
    return [f"{flag}: {name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
