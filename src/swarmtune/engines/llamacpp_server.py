"""``python -m swarmtune.engines.llamacpp_server``: serve a GGUF model with llama.cpp until SIGTERM or SIGINT.

The flags carry the names of llama.cpp's parameters, and those of its own server (-c, --parallel). Nothing is fitted to the
machine behind the user's back.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
PLAIN_TYPES = CACHE_TYPES[:3]  # the others are quantised
LAYERS = {"auto": -1, "all": -2}
PLAIN = ("n_parallel", "n_batch", "n_ubatch", "n_ctx", "n_threads_http", "n_gpu_layers", "kv_unified", "cont_batching")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _context(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _threads(text: str) -> int:
    value = int(text)
    return value if value > 0 else len(os.sched_getaffinity(0))


def _layers(text: str) -> int:
    value = LAYERS[text] if text in LAYERS else int(text)
    if value < -2:
        raise argparse.ArgumentTypeError(f"{value} is below -2")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line; unknown flags and wrong values end the process with code 2."""
    parser = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__, allow_abbrev=False)
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add("--model", "-m", required=True, help="GGUF file")
    add("--alias", "-a", default="", help="model name that the service tells")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=_positive, required=True, help="port to listen on")
    add("--n-parallel", "--parallel", "-np", type=_positive, default=4, help="slots: requests served at a time")
    add(
        "--n-ctx",
        "--ctx-size",
        "-c",
        type=_context,
        default=8192,
        help="tokens of KV cache, all slots together; 0: the model's",
    )
    add("--n-batch", "--batch-size", "-b", type=_positive, default=2048, help="tokens of one logical batch")
    add("--n-ubatch", "--ubatch-size", "-ub", type=_positive, default=512, help="tokens of one physical batch")
    add("--n-threads", "--threads", "-t", type=_threads, default=cores, help="threads of decoding; below 1: all cores")
    add(
        "--n-threads-batch",
        "--threads-batch",
        "-tb",
        type=_threads,
        default=cores,
        help="threads of prompt processing; below 1: all cores",
    )
    add(
        "--n-threads-http",
        "--threads-http",
        type=int,
        default=-1,
        help="threads that serve HTTP; -1: llama.cpp's choice",
    )
    add(
        "--n-gpu-layers",
        "--gpu-layers",
        "-ngl",
        type=_layers,
        default=-1,
        help="layers on devices; auto (-1): llama.cpp's choice; all (-2)",
    )
    add("--flash-attn", "-fa", choices=tuple(FLASH_ATTENTION), default="auto")
    add("--cache-type-k", "-ctk", choices=CACHE_TYPES, default="f16")
    add("--cache-type-v", "-ctv", choices=CACHE_TYPES, default="f16", help="a quantised one needs flash attention")
    add("--kv-unified", "-kvu", action=argparse.BooleanOptionalAction, default=True, help="one KV buffer for all slots")
    add("--cont-batching", "-cb", action=argparse.BooleanOptionalAction, default=True, help="continuous batching")
    add("--cache-ram", "-cram", type=int, default=8192, help="MiB of past prompts kept in memory; 0 none")
    return parser


def mistake(options: argparse.Namespace) -> str | None:
    """What llama.cpp would refuse in these options."""
    if options.cache_type_v not in PLAIN_TYPES and options.flash_attn == "off":
        return f"argument --cache-type-v: {options.cache_type_v} needs flash attention"
    return None


def parameters(options: argparse.Namespace, xllamacpp: Any) -> Any:
    """The options as ``xllamacpp.CommonParams``."""
    made = xllamacpp.CommonParams()
    for name in PLAIN:
        setattr(made, name, getattr(options, name))
    made.model.path = options.model
    if options.alias:
        made.model_alias = {options.alias}
    made.port, made.hostnames = options.port, [options.host]
    made.cpuparams.n_threads = options.n_threads
    made.cpuparams_batch.n_threads = options.n_threads_batch
    flash = xllamacpp.llama_flash_attn_type
    made.flash_attn_type = getattr(flash, f"LLAMA_FLASH_ATTN_TYPE_{FLASH_ATTENTION[options.flash_attn]}")
    made.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_k.upper()}")
    made.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_v.upper()}")
    made.cache_ram_mib = options.cache_ram
    made.fit_params = False
    made.endpoint_metrics = True
    made.ui = False
    return made


def port_trouble(host: str, port: int) -> str | None:
    """Why this address cannot be listened on, if it cannot: llama.cpp itself would wait for ever, or say nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host}:{port}: [Errno {error.errno}] {error.strerror}"
    return None


def spelled(argv: Sequence[str]) -> list[str]:
    """The arguments with - for _ in the names of long flags, as llama-server takes them."""
    made = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        made.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 stopped, 1 could not start, 2 bad arguments."""
    parser = build_parser()
    options = parser.parse_args(spelled(sys.argv[1:] if argv is None else argv))
    if wrong := mistake(options):
        parser.error(wrong)
    if not Path(options.model).is_file():
        return _fail(f"model file not found: {options.model}")
    if trouble := port_trouble(options.host, options.port):
        return _fail(trouble)
    try:
        import xllamacpp
    except ImportError as error:
        return _fail(f"{error}: pip install 'swarmtune[llamacpp]'")
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before llama.cpp's threads exist, so that they inherit it
    try:
        server = xllamacpp.Server(parameters(options, xllamacpp))
    except (RuntimeError, ValueError, MemoryError) as error:
        return _fail(f"llama.cpp did not start: {type(error).__name__}: {error}")
    sys.stdout.write(f"llama.cpp serves {options.model} on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait(signals)
    os._exit(0)  # waiting for open requests and freeing buffers would take seconds


def _fail(text: str) -> int:
    sys.stderr.write(text + "\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
