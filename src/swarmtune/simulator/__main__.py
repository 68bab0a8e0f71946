"""``python -m swarmtune.simulator``: serve a simulated engine until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

from swarmtune.clock import RealClock
from swarmtune.scheduling import Rules
from swarmtune.simulator.config import FAILURES, DeviceMemory, Faults, SimulatorConfig
from swarmtune.simulator.faults import fail_start, mistakes
from swarmtune.simulator.step_time import StepCost

Part = TypeVar("Part", StepCost, DeviceMemory)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number >= 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line; unknown flags end the process with code 2."""
    parser = argparse.ArgumentParser(prog="python -m swarmtune.simulator", description=__doc__, allow_abbrev=False)
    rules, cost, memory = Rules(), StepCost(), DeviceMemory()
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one and prints it")
    add("--model", default="simulated", help="model name that requests must carry")
    add("--nodes", type=_positive, default=1, help="processes that compute together; they meet on port + 1 of --host")
    add("--node-rank", type=int, default=0, help="which of them this is; 0 serves")
    engine = parser.add_argument_group("engine settings")
    for name in ("max_num_seqs", "max_num_batched_tokens", "block_size"):
        engine.add_argument(_flag(name), type=_positive, default=getattr(rules, name))
    engine.add_argument("--kv-cache-tokens", type=_positive, default=rules.kv_tokens)
    engine.add_argument("--enable-chunked-prefill", action=argparse.BooleanOptionalAction, default=True)
    times = parser.add_argument_group("step time in seconds")
    for name in ("base_s", "per_prefill_token_s", "per_decode_seq_s", "per_context_token_s", "per_token_above_knee_s"):
        times.add_argument(_flag(name), type=_not_negative, default=getattr(cost, name))
    times.add_argument("--knee-tokens", type=_positive, default=cost.knee_tokens, help="tokens of a step")
    times.add_argument("--noise", type=_not_negative, default=0.0, help="sigma of the lognormal noise on step times")
    times.add_argument("--seed", type=int, default=0)
    device = parser.add_argument_group("pretended device")
    device.add_argument("--memory-gib", type=_not_negative, default=memory.memory_gib)
    device.add_argument("--weights-gib", type=_not_negative, default=memory.weights_gib)
    device.add_argument("--kv-bytes-per-token", type=_positive, default=memory.kv_bytes_per_token)
    tests = parser.add_argument_group("for tests")
    tests.add_argument("--record", help="file for one JSON line of true times per finished request")
    tests.add_argument("--startup-delay", type=_not_negative, default=0.0, help="seconds before listening")
    tests.add_argument("--fail-start", choices=FAILURES)
    tests.add_argument("--crash-after-requests", type=int, help="abort when one more request arrives")
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_config(arguments: argparse.Namespace) -> SimulatorConfig:
    """The parsed flags as the server's configuration."""
    given = vars(arguments)

    def part(kind: type[Part]) -> Part:
        return kind(**{name: given[name] for name in (f.name for f in fields(kind))})

    return SimulatorConfig(
        model=arguments.model,
        rules=Rules(
            arguments.max_num_seqs,
            arguments.max_num_batched_tokens,
            arguments.kv_cache_tokens // arguments.block_size + 1,
            arguments.block_size,
            chunked_prefill=arguments.enable_chunked_prefill,
        ),
        cost=part(StepCost),
        noise=arguments.noise,
        seed=arguments.seed,
        memory=part(DeviceMemory),
        faults=Faults(arguments.startup_delay, arguments.fail_start, arguments.crash_after_requests),
        record=arguments.record,
        nodes=arguments.nodes,
    )


async def _serve(config: SimulatorConfig, host: str, port: int, rank: int) -> int:
    from swarmtune.simulator.ranks import serve_rank
    from swarmtune.simulator.server import SimulatedServer

    clock = RealClock()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if config.faults.startup_delay_s:
        delay = asyncio.create_task(clock.sleep(config.faults.startup_delay_s))
        stop = asyncio.create_task(stopped.wait())
        await asyncio.wait({delay, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.is_set():
            return 0
        stop.cancel()
    if rank:
        return await serve_rank(rank, host, port + 1, clock, stopped)
    server = SimulatedServer(config, clock)
    try:
        port = await server.start(host, port)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Simulated engine serves {config.model} on http://{host}:{port}\n")
    sys.stdout.flush()
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait({stop, *filter(None, [server.loop])}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    await server.stop()
    if not stopped.is_set():
        sys.stderr.write("RuntimeError: a rank is gone: the engine core died unexpectedly (EngineDeadError)\n")
    return 0 if stopped.is_set() else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 stopped, 1 could not start, 2 bad arguments."""
    arguments = build_parser().parse_args(argv)
    config = read_config(arguments)
    code = fail_start(config)
    if code is not None:
        return code
    if mistake := mistakes(config):
        sys.stderr.write(mistake + "\n")
        return 1
    return asyncio.run(_serve(config, arguments.host, arguments.port, arguments.node_rank))


if __name__ == "__main__":
    raise SystemExit(main())
