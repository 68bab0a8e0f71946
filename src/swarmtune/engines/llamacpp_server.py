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
CACHE_TYPES = ("f16", "q8_0", "q4_0")
PLAIN = ("n_parallel", "n_batch", "n_ubatch", "n_ctx", "n_threads_http", "n_gpu_layers", "kv_unified", "cont_batching")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _layers(text: str) -> int:
    value = int(text)
    if value < -1:
        raise argparse.ArgumentTypeError(f"{value} is below -1")
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
    add("--n-ctx", "--ctx-size", "-c", type=_positive, default=8192, help="tokens of KV cache, all slots together")
    add("--n-batch", "--batch-size", "-b", type=_positive, default=2048, help="tokens of one logical batch")
    add("--n-ubatch", "--ubatch-size", "-ub", type=_positive, default=512, help="tokens of one physical batch")
    add("--n-threads", "--threads", "-t", type=_positive, default=cores, help="threads of decoding")
    add(
        "--n-threads-batch",
        "--threads-batch",
        "-tb",
        type=_positive,
        default=cores,
        help="threads of prompt processing",
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
        help="layers on devices; -1: llama.cpp's choice",
    )
    add("--flash-attn", "-fa", choices=tuple(FLASH_ATTENTION), default="auto")
    add("--cache-type-k", "-ctk", choices=CACHE_TYPES, default="f16")
    add("--cache-type-v", "-ctv", choices=CACHE_TYPES, default="f16", help="other than f16 needs flash attention")
    add("--kv-unified", "-kvu", action=argparse.BooleanOptionalAction, default=True, help="one KV buffer for all slots")
    add("--cont-batching", "-cb", action=argparse.BooleanOptionalAction, default=True, help="continuous batching")
    add("--cache-ram", "-cram", type=int, default=8192, help="MiB of past prompts kept in memory; 0 none")
    return parser


def mistake(options: argparse.Namespace) -> str | None:
    """What llama.cpp would refuse, or quietly change, in these options."""
    if options.n_ubatch > options.n_batch:
        return f"argument --n-ubatch: {options.n_ubatch} is larger than --n-batch {options.n_batch}"
    if options.cache_type_v != "f16" and options.flash_attn == "off":
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


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 stopped, 1 could not start, 2 bad arguments."""
    parser = build_parser()
    options = parser.parse_args(argv)
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
