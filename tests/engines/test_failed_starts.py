"""Causes from logs of many engines, each with other prefixes, colours and lines before and after it."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from swarmtune.engines.causes import CULPRITS
from swarmtune.engines.diagnosis import Cause, classify, diagnose
from swarmtune.engines.llamacpp import PATTERNS as LLAMACPP
from swarmtune.engines.log_lines import MOST_CHARACTERS, MOST_LINES, Level, lines_of
from swarmtune.engines.mindie import PATTERNS as MINDIE
from swarmtune.engines.sglang import PATTERNS as SGLANG
from swarmtune.engines.vllm import PATTERNS as VLLM
from swarmtune.errors import Culprit
from swarmtune.report.sentences import telling

DATA = Path(__file__).parent / "data"
OWN = {"vllm": VLLM, "llamacpp": LLAMACPP, "sglang": SGLANG, "mindie": MINDIE}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines() if line]


CASES, STARTS = rows("start_logs.jsonl"), rows("failed_starts.jsonl")
PREFIXES = [
    "",
    "[rank0]: ",
    "vllm-1  | ",
    "[2025-08-08 09:09:09 TP0] ",
    "ERROR 11-25 08:17:34 multiproc_worker_utils.py:229] ",
    "Nov 26 14:13:36 host7 vllm[4242]: ",
    "(EngineCore_DP0 pid=270) ERROR 11-26 14:13:36 [core.py:842] ",
    "(RayWorkerWrapper pid=11394, ip=10.0.1.4) ERROR 06-12 09:47:56 [worker_base.py:620] ",
    "\x1b[0;36m(EngineCore_0 pid=123)\x1b[0;0m \x1b[1;31mERROR\x1b[0m 11-26 14:13:36 [core.py:842] ",
    "INFO 2025-11-19T20:16:36.096674521Z [resource: vllm] (EngineCore_DP0 pid=270) ERROR 11-19 12:16:36 [core.py:842] ",
]
HARMLESS = [
    "INFO Port 29500 is already in use, trying port 29501",
    "Port 8000 is already in use, trying port 8001",
    "INFO 11-26 14:13:30 [api_server.py:1755] vLLM API server version 0.10.0",
    "WARNING 11-26 14:13:31 [envs.py:70] Found ulimit of 20000, errors like `OSError: [Errno 24] Too many open files`.",
    "W socket.cpp: cannot bind [::]:29500 (errno: 98 - Address already in use), IPv4 it is",
    "[W723 10:35:58.297759598 compiler_depend.ts:526] Warning: NPU warning, error code is 507034[Error]:",
    "/opt/torch/cuda/__init__.py:129: UserWarning: CUDA initialization: CUDA error: out of memory",
    "\x1b[33mWARN\x1b[0m  No module named 'flash_attn', falling back to SDPA",
    "DEBUG request xid 17 done",
    "0.00.005.967 W srv          init: security: no API key is set: model not found",
    "[2025-08-08 09:09:08] Load weight end. avail mem=77.66 GB, mem usage=1.18 GB.",
    'time=2025-11-06T06:23:22.759Z level=INFO msg="out of memory is handled"',
    "Loading safetensors checkpoint shards:  50% Completed | 1/2\rLoading safetensors checkpoint shards: 100% Completed",
]
SHUTDOWN = (DATA / "shutdown.log").read_text().rstrip().split("\n===\n")  # after the cause, and never one
AFTERWARDS = [
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    "RuntimeError: the core did not start, see above",
    "RuntimeError: Engine process failed to start. See stack trace for the root cause.",
    "Exception: WorkerProc initialization failed due to an exception in a background process.",
    "[rank1]: torch.distributed.DistBackendError: NCCL error in: x.cpp:1970, remote process exited",
    "[rank2]:[E] ProcessGroupNCCL.cpp:616] Watchdog caught collective operation timeout",
    "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: 1 leaked shared_memory",
    "INFO 11-26 14:13:40 [multiproc_executor.py:479] [shutdown] Executor: waiting for worker exit count=1",
    "(APIServer pid=1) INFO:     Shutting down",
    "BrokenPipeError: [Errno 32] Broken pipe",
    *SHUTDOWN,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']} {case['log'][:40]}")
def test_logs_that_were_misread(case: dict[str, Any]) -> None:
    error = diagnose(case["engine"], case["exit_code"], case["log"], OWN.get(case["engine"]))
    assert error.details["cause"] in case["right"]
    assert error.culprit is CULPRITS.get(Cause(error.details["cause"]), Culprit.SETTING)


@pytest.mark.parametrize("case", STARTS, ids=lambda case: f"{case['cause']} {case['log'][:40]}")
def test_each_cause_is_found_whatever_stands_around_it(case: dict[str, Any]) -> None:
    luck = random.Random(case["log"])
    own = OWN.get(case["engine"])
    assert diagnose("X", case["exit_code"], case["log"], own).details["cause"] == case["cause"]
    for prefix, several in itertools.product(PREFIXES, (1, 5)):
        lines = [prefix + line for line in case["log"].split("\n")]
        after = luck.sample(AFTERWARDS, several) if case["cause"] != "crashed" or case["exit_code"] == 1 else []
        log = "\n".join([*luck.sample(HARMLESS, several), *lines, *after])
        error = diagnose("X", case["exit_code"], log, own)
        assert (error.details["cause"], log) == (case["cause"], log)


@pytest.mark.parametrize("case", STARTS, ids=lambda case: f"{case['cause']} {case['log'][:40]}")
def test_the_line_that_tells_is_on_the_screen(case: dict[str, Any]) -> None:
    log = "\n".join([*HARMLESS, PREFIXES[6] + case["log"].replace("\n", "\n" + PREFIXES[6]), *AFTERWARDS])
    for text in (case["log"], log):
        error = diagnose("X", case["exit_code"], text, OWN.get(case["engine"]))
        assert case["tells"].lower() in telling(error.message).lower() or case["exit_code"] == -11


@pytest.mark.parametrize("case", STARTS, ids=lambda case: f"{case['cause']} {case['log'][:40]}")
def test_the_cause_is_seen_behind_thousands_of_lines(case: dict[str, Any]) -> None:
    log = "\n".join([case["log"], *(f"INFO 11-26 14:13:40 shutting down {i}" for i in range(3000))])
    error = diagnose("X", case["exit_code"], log, OWN.get(case["engine"]))
    assert error.details["cause"] == case["cause"]
    assert case["tells"].lower() in telling(error.message).lower() or case["exit_code"] == -11


def test_an_ignored_exception_alone_is_no_cause() -> None:
    for text in SHUTDOWN:
        assert classify(1, text, {}) is Cause.CRASHED, text
    block = "Exception ignored in: <function f at 0x7f>\nKeyError: 'x'\n"
    assert classify(1, f"{block}torch.OutOfMemoryError: CUDA out of memory.", {}) is Cause.OUT_OF_MEMORY


def test_the_line_above_the_hints_tells() -> None:
    for last in (
        "main: exiting due to model loading error",
        "Failed to init endpoint! Please check the service log or console output.",
        "Killed",
        "./start.sh: line 9:  1234 Killed                  python3 -m sglang.launch_server",
        "Aborted (core dumped)",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ):
        error = diagnose("X", 1, f"loading\ncannot use 7 heads\n{last}")
        assert (error.details["cause"], telling(error.message).endswith("[cannot use 7 heads]")) == ("crashed", True), (
            last
        )


@pytest.mark.parametrize(
    "line",
    [
        "No GPU available, using CPU",
        "srun: Job 29 step creation temporarily disabled, retrying (Requested nodes are busy)",
        "Search for `cudaErrorMemoryAllocation' in the documentation for more information.",
        "Possible Cause: Available memory is insufficient.",
        "warning: failed to mlock 184791040-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
        "WARNING: The object store is using /tmp instead of /dev/shm because /dev/shm has only 64 MB available.",
        '10.0.0.2:55 - "POST /v1/completions HTTP/1.1" 429 Too Many Requests',
        '10.0.0.2:55 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
        "srun: error: n1: task 0: Exited with exit code 1",
    ],
)
def test_a_line_that_sounds_like_a_cause_and_is_none(line: str) -> None:
    assert classify(1, line, {}) is Cause.CRASHED


def test_words_for_people_say_what_to_do() -> None:
    logs = {
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.\nIf you are trying to access a private or gated "
        "repo, make sure you are authenticated.": ("no such model", "Correct the model's name"),
        "huggingface_hub.errors.GatedRepoError: 401 Client Error.": ("refuses access", "HF_TOKEN"),
        "OSError: We couldn't connect to the hub, and no file is in the cache": ("out of reach", "Download"),
        "./start.sh: line 3: vllm: command not found": ("program", "Install"),
        "ModuleNotFoundError: No module named 'vllm'": ("module", "environment"),
        "RuntimeError: The NVIDIA driver on your system is too old (11040).": ("driver", "driver"),
        "OSError: [Errno 24] Too many open files": ("open files", "ulimit"),
        "OSError: [Errno 28] No space left on device": ("disk", "space"),
        "ValueError: Free memory on device cuda:0 (3.0/79.1 GiB) is less than desired (0.9, 71.2 GiB).": (
            "another process",
            "nvidia-smi",
        ),
        "NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory": ("lock too little", "ulimit -l"),
        "RuntimeError: deep_gemm is required for this, but it is not installed": ("module", "Install"),
        "Bootstrap : no socket interface found": ("interface", "NCCL_SOCKET_IFNAME"),
        "Error response from daemon: No such container: vllm-1": ("container", "docker ps -a"),
        "ERROR core proc EngineCore died unexpectedly with exit code -9": ("probably", "dmesg"),
        "PermissionError: [Errno 13] Permission denied: '/home/u/.cache/huggingface/hub/x'": (
            "cannot write",
            "HF_HOME",
        ),
        "gguf_init_from_file: failed to open GGUF file 'x.gguf'": ("not there", "path"),
        "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.": ("docker", "systemctl"),
        "ERROR: might be caused by insufficient shared memory (shm).": ("shared memory", "--ipc=host"),
        "[Errno 99] error while attempting to bind on address ('10.0.0.5', 1): cannot assign requested address": (
            "host address",
            "0.0.0.0",
        ),
        "RuntimeError: CUDA error: no kernel image is available for execution on the device": ("not built", "image"),
        "/tmp/x.c:6:10: fatal error: Python.h: No such file or directory": ("compile", "headers"),
        "ImportError: cannot import name 'x' from 'triton.compiler' (/opt/miniconda3/lib/x.py)": ("module", "Install"),
        "torch.OutOfMemoryError: CUDA out of memory. 128.00 MiB in private pools (e.g., CUDA Graphs)": (
            "ran out of memory (exit",
            "batch sizes",
        ),
    }
    for log, words in logs.items():
        first = diagnose("X", 1, log).message.splitlines()[0]
        assert all(word in first for word in words), first


@pytest.mark.parametrize(
    ("code", "cause"), [(-4, Cause.MISSING_MODEL), (132, Cause.MISSING_MODEL), (-11, Cause.CRASHED)]
)
def test_an_illegal_instruction_is_a_build_for_another_machine(code: int, cause: Cause) -> None:
    error = diagnose("X", code, "loading model")
    assert error.details["cause"] == cause
    assert ("not built for this device" in error.message) == (cause is Cause.MISSING_MODEL)
    assert classify(code, "torch.OutOfMemoryError: CUDA out of memory.", {}) is Cause.OUT_OF_MEMORY


def test_exit_codes_of_a_shell_tell_without_a_log() -> None:
    assert [classify(code, "", {}) for code in (126, 127, 1)] == [
        Cause.MISSING_MODEL,
        Cause.MISSING_MODEL,
        Cause.CRASHED,
    ]


def test_a_later_exception_of_another_kind_clears_a_line_without_a_level() -> None:
    assert classify(1, "port 8000 is in use\nKeyError: 'x'", {}) is Cause.CRASHED
    assert classify(1, "port 8000 is in use\nRuntimeError: the core did not start, see above", {}) is Cause.PORT_TAKEN
    assert classify(1, "CUDA error: uncorrectable ECC error\nKeyError: 'x'", {}) is Cause.DEVICE_ERROR


def test_a_chained_general_exception_gives_way_to_its_cause() -> None:
    chain = (
        "{}\n\nThe above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "x", line 1\n{}'
    )
    log = chain.format("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "ValueError: cannot read the config")
    assert classify(1, log, {}) is Cause.MISSING_MODEL
    assert classify(1, log.replace("The above exception was the direct cause", "x"), {}) is Cause.BAD_ARGUMENT


def test_code_in_a_traceback_is_no_cause() -> None:
    log = 'Traceback (most recent call last):\n  File "/x.py", line 3\n    raise MemoryError("out of memory")\nKeyError: 1'
    assert classify(1, log, {}) is Cause.CRASHED


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_and_colours_are_taken_off(prefix: str) -> None:
    (line,) = lines_of(f"{prefix}\x1b[31mKeyError: 'x'\x1b[0m\r\n")
    assert (line.text, line.level, line.raised) == ("KeyError: 'x'", Level.ERROR, True)
    (bare,) = lines_of("[Errno 98] Address already in use")
    assert bare.text.startswith("[Errno 98]")


@pytest.mark.parametrize(
    "log",
    [
        "model " * 200_000,
        "(" * 500_000,
        "[" * 500_000,
        "\x1b[" * 300_000,
        "a." * 300_000 + "Error",
        ("model " * 300 + "\n") * 3000,
        "Free memory on device (" * 50_000,
        ("Traceback (most recent call last):\n" + "ValueError: x\n") * 20_000,
        "\x00\r\n\u2028\x85" * 100_000,
        "".join(map(chr, range(0x3000))),
    ],
    ids=range(10),
)
def test_hostile_logs_are_read_within_bounds(log: str) -> None:
    assert len(lines_of(log)) <= MOST_LINES
    assert all(len(line.text) <= MOST_CHARACTERS + 10 for line in lines_of(log))
    error = diagnose("X", 1, log)
    assert len(error.message) < 10_000
    assert "\x1b" not in error.message


@pytest.mark.parametrize(("line", "words"), [
    ("RuntimeError: unable to write to file </torch_7_1_4>: No space left on device (28)", ("shared memory", "--shm-size")),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", ("shared memory", "--shm-size")),
    ("AssertionError: res=<Response [502]>, res.text=''", ("through a proxy", "no_proxy=127.0.0.1,localhost")),
    ("RuntimeError: FlashInfer requires GPUs with sm75 or higher", ("not built for this device",)),
])  # fmt: skip
def test_the_user_must_mend_what_surrounds_the_service(line: str, words: tuple[str, ...]) -> None:
    error = diagnose("X", 1, line)
    assert error.culprit is Culprit.USER
    assert all(word in error.message for word in words), error.message


@pytest.mark.parametrize("log", ["", "started in background", "daemon 12 runs, errors go to /var/log/x"])
def test_a_start_script_that_ends_well_has_not_crashed(log: str) -> None:
    error = diagnose("X", 0, log)
    assert error.message.startswith(
        "X did not serve: it ended by itself (exit code 0). A service must stay in the fore"
    )
    assert error.details["cause"] == "crashed"


def test_an_exception_behind_exit_code_0_is_a_crash() -> None:
    """As that of a service whose output a start script pipes through tee."""
    assert "it crashed (exit code 0)" in diagnose("X", 0, "KeyError: 'x'").message
    assert classify(0, "torch.OutOfMemoryError: CUDA out of memory.", {}) is Cause.OUT_OF_MEMORY


def test_a_line_of_a_log_is_no_variable_that_lacks() -> None:
    for line, cause in (
        ("cache.cpp: 45: warning: size set to 4096, as none was required", "crashed"),
        ("./start.sh: 45: HF_TOKEN: is required", "missing_model"),
    ):
        assert diagnose("X", 1, f"{line}\n").details["cause"] == cause


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment.", "device_error"),
        ("[ERROR] Failed to start server: port 1025 is already used", "port_taken"),
        ("ValueError: a request requires GPU memory of 3.5 GiB", "bad_argument"),
        ("INFO the server port 1025 is used for requests", "crashed"),
    ],
)  # fmt: skip
def test_a_line_is_told_from_those_like_it(line: str, cause: str) -> None:
    assert diagnose("X", 1, line).details["cause"] == cause
