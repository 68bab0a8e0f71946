"""The command line. Only the command that is called is imported, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from swarmtune import __version__
from swarmtune.apps.cli.output import Output, wants_json
from swarmtune.errors import ConfigurationError, Culprit, SwarmTuneError

THREADS = "OPENBLAS_NUM_THREADS"
EXIT_DONE, EXIT_FAILED, EXIT_CONFIGURATION, EXIT_NOTHING_FEASIBLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
EXIT_UNPRINTED = 74  # EX_IOERR of sysexits.h

# name -> (module in this package, one line for --help); adding a command is one file and one line here.
COMMANDS = {
    "optimizer": ("optimizer", "find the best settings of an LLM service and prove them against the baseline"),
    "bench": ("bench", "load-test an LLM service and say how far the measurement can be trusted"),
    "bench-worker": ("bench_worker", "send load from this machine for `swarmtune bench --listen` elsewhere"),
    "node": ("node", "run commands on this machine for a tuner that shares only a file system with it"),
    "check": ("check", "validate a configuration, ask the installed engine, and show the plan"),
    "init": ("init", "write a commented config.toml for the engine, model and hardware found here"),
}

# What the older tuner and its successor call otherwise, or have and SwarmTune does not: the way out.
ELSEWHERE = {
    "train": "there is no `train`: nothing is learned beforehand; `swarmtune optimizer` learns from what it measures, and "
    "from earlier studies of the same model (warm_start)",
    "optix": "`optix` is called optimizer here: swarmtune optimizer",
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

EPILOG = (
    "exit codes: 0 done, 1 the run failed, 2 the configuration is wrong, 3 nothing feasible found, 74 done and not "
    "printed,\n130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; SystemExit with the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    with Output(wants_json(name, arguments)) as output:
        code = _run(name, arguments[1:], output) if name else _overview(arguments)
    if output.trouble:
        print(f"swarmtune {name}: {output.trouble}".replace(" :", ":"), file=sys.stderr)
        code = code or EXIT_UNPRINTED
    sys.exit(code)


def _overview(arguments: Sequence[str]) -> int:
    """Help and version, and the mistake of a command that does not exist."""
    parser = argparse.ArgumentParser(
        prog="swarmtune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"swarmtune {__version__}")
    if arguments and arguments[0] in ELSEWHERE:
        print(f"swarmtune: {ELSEWHERE[arguments[0]]}", file=sys.stderr)
        return EXIT_CONFIGURATION
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    try:
        parser.parse_args(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return EXIT_DONE


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


class _Parser(argparse.ArgumentParser):
    mistake = ""

    def error(self, message: str) -> NoReturn:
        self.mistake = message
        super().error(message)


def _run(name: str, arguments: Sequence[str], output: Output) -> int:
    """Run a command; the exit code. Each error is told on stderr, and as a JSON object where the output is one."""
    parser = _Parser(
        prog=f"swarmtune {name}",
        description=COMMANDS[name][1],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a secret behind half an option could not be recognised
    )
    try:
        if name == "optimizer":
            _one_thread_for_matrices()
        module = importlib.import_module(f"swarmtune.apps.cli.{COMMANDS[name][0]}")
        module.add_arguments(parser)
        parsed = parser.parse_args(arguments)
        parsed.result = output
        with _interruptible():
            return int(module.run(parsed))
    except SystemExit as left:
        code = int(left.code or 0)
        if code:
            output.fail(parser.mistake, code)
        return code
    except KeyboardInterrupt:
        print(f"swarmtune {name}: interrupted", file=sys.stderr)
        output.fail("interrupted", EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except SwarmTuneError as error:
        print(f"swarmtune {name}: {error}", file=sys.stderr)
        code = EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAILED
        if code == EXIT_FAILED and error.culprit is Culprit.BUG:
            print("This should not happen. Please report it with the lines above.", file=sys.stderr)
        output.fail(error, code)
        return code
    except Exception as error:
        output.fail(repr(error), EXIT_FAILED, Culprit.BUG)
        raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt in the body; before and after it, the door of the command leaves at once."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or before is signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
