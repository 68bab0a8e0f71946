"""The command line. Only the command that is called is imported, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from swarmtune import __version__
from swarmtune.errors import ConfigurationError, Culprit, SwarmTuneError

THREADS = "OPENBLAS_NUM_THREADS"
EXIT_DONE, EXIT_FAILED, EXIT_CONFIGURATION, EXIT_NOTHING_FEASIBLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

# name -> (module in this package, one line for --help); adding a command is one file and one line here.
COMMANDS = {
    "optimizer": ("optimizer", "find the best settings of an LLM service and prove them against the baseline"),
    "bench": ("bench", "load-test an LLM service and say how far the measurement can be trusted"),
    "bench-worker": ("bench_worker", "send load from this machine for `swarmtune bench --listen` elsewhere"),
    "node": ("node", "run commands on this machine for a tuner that shares only a file system with it"),
    "check": ("check", "validate a configuration and show the plan, without running anything"),
    "init": ("init", "write a commented config.toml for the engine, model and hardware found here"),
}

DESCRIPTION = """\
SwarmTune finds the settings at which an LLM inference service gives the most useful work within its latency limits (SLOs).

Start here:
  swarmtune optimizer                      tune the embedded llama.cpp with SmolLM2-135M on this machine (about 5 min)
  swarmtune init -e vllm                   write a config.toml to adapt
  swarmtune check -c config.toml           validate it and show the plan
  swarmtune optimizer -e vllm -c config.toml
  swarmtune bench -m MODEL --url URL       only measure a service
  swarmtune optimizer -lb                  resume after an interruption
"""

EPILOG = "exit codes: 0 done, 1 the run failed, 2 the configuration is wrong, 3 nothing feasible found, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command ``swarmtune``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    if arguments and arguments[0] in COMMANDS:
        sys.exit(_run(arguments[0], arguments[1:]))
    parser = argparse.ArgumentParser(
        prog="swarmtune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"swarmtune {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    parser.parse_args(arguments)


def _one_thread_for_matrices() -> None:
    """Limit numpy to one thread: the matrices of the search are small, and the load generator needs the cores.

    OpenBLAS reads its variable when numpy and scipy load it, and the services that are started must not inherit it.
    """
    if "numpy" in sys.modules or THREADS in os.environ:
        return
    os.environ[THREADS] = "1"
    try:
        importlib.import_module("numpy")
        importlib.import_module("scipy.linalg")
    finally:
        del os.environ[THREADS]


def _run(name: str, arguments: Sequence[str]) -> int:
    if name == "optimizer":
        _one_thread_for_matrices()
    module = importlib.import_module(f"swarmtune.apps.cli.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(
        prog=f"swarmtune {name}",
        description=COMMANDS[name][1],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a secret behind half an option could not be recognised
    )
    try:
        module.add_arguments(parser)
        try:
            return int(module.run(parser.parse_args(arguments)))
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can still be handled; --help leaves this way, too
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except SwarmTuneError as error:
        print(f"swarmtune {name}: {error}", file=sys.stderr)
        if isinstance(error, ConfigurationError):
            return EXIT_CONFIGURATION
        if error.culprit is Culprit.BUG:
            print("This should not happen. Please report it with the lines above.", file=sys.stderr)
        return EXIT_FAILED
