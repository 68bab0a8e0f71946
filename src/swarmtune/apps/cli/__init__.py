"""The command line. Only the command that is called is imported, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from swarmtune import __version__
from swarmtune.apps.cli.output import Discreet, Output, SideStream, wants_json
from swarmtune.errors import ConfigurationError, Culprit, SwarmTuneError, one_line
from swarmtune.redaction import cover_arguments, ours

IMPORTING = "<frozen importlib._bootstrap>"  # the code of an import that is under way
THREADS = "OPENBLAS_NUM_THREADS"
EXIT_DONE, EXIT_FAILED, EXIT_CONFIGURATION, EXIT_NOTHING_FEASIBLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
EXIT_UNPRINTED = 74  # EX_IOERR of sysexits.h

# name -> (module in this package, one line for --help); adding a command is one file and one line here.
COMMANDS = {
    "optimizer": ("optimizer", "find the best settings of an LLM service and prove them against the baseline"),
    "bench": ("bench", "load-test an LLM service and say how far the measurement can be trusted"),
    "bench-worker": ("bench_worker", "send load from this machine for `swarmtune bench --listen` elsewhere"),
    "node": ("node", "run commands on this machine for a tuner that shares only a file system with it"),
    "check": ("check", "validate a configuration, ask the installed engine, and show the plan"),
    "train": ("train", "learn from measured steps how long the steps of an engine take"),
    "calibrate": ("calibrate", "anchor a model of step times to a service that was seen"),
    "simulate": ("simulate", "predict what a setting does, in virtual time, with nothing started or measured"),
    "init": ("init", "write a commented config.toml for the engine, model and hardware found here"),
}

LIKE_AN_OPTION = 0.75  # so near must an option be that was meant: most of them share some letters
# Options of other tuners, and what they are called here.
HABITS = {
    **dict.fromkeys(
        ("--n-trials", "--trials", "--num-trials", "--max-trials", "--n_trials", "--budget"), "--evaluations"
    ),
    **dict.fromkeys(("--sampler", "--search", "--strategy"), "--algorithm"),
    **dict.fromkeys(("--time-limit", "--max-time", "--duration"), "--timeout"),
    **dict.fromkeys(("--storage", "--study-name", "--db"), "--study"),
    **dict.fromkeys(
        ("--model", "-m", "--model-path", "--model-name"),
        "the model is named in the engine's table, such as [vllm.command] model; `swarmtune init` writes one with --model",
    ),
}

# What the older tuner and its successor call otherwise, or have and SwarmTune does not: the way out.
ELSEWHERE = {
    "profile": "`profile` is called bench here: swarmtune bench",
    "benchmark": "`benchmark` is called bench here: swarmtune bench",
    "serve": "there is no `serve`: services are started by swarmtune optimizer, and measured by swarmtune bench",
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
    ours.learn_environment(os.environ)
    ours.learn_in(arguments)
    if argv is None:
        cover_arguments()
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    told = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - closed; print takes None for stdout
    with contextlib.redirect_stderr(Discreet(SideStream(told))):
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
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.print_usage(sys.stderr)
        word = one_line(arguments[0])
        known = f"commands: {', '.join(COMMANDS)}"
        print(f"swarmtune: there is no command {word!r}{near(word, COMMANDS)}; {known}", file=sys.stderr)
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


class CommandParser(argparse.ArgumentParser):
    """The parser of one command: keeps the mistake, and names what comes near to an option that does not exist."""

    mistake = ""

    def __init__(self, command: str) -> None:
        super().__init__(
            prog=f"swarmtune {command}",
            description=COMMANDS[command][1],
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # a secret behind half an option could not be recognised
        )

    def add_shared(self) -> None:
        """The options that every command has."""
        self.add_argument(
            "--log-level", type=level_of, choices=LEVELS, metavar="LEVEL",
            help=f"what is logged, to stderr or the study's log.txt: {', '.join(LEVELS)}",
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        self.mistake = message
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it; an option that does not exist comes with the near one, and without what may be a secret."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            unknown = [word.partition("=")[0] for word in rest if word.startswith("-")] or rest
            self.error(f"unrecognized arguments: {', '.join(one_line(word) + self._hint(word) for word in unknown)}")
        return parsed

    def _hint(self, word: str) -> str:
        options = [name for action in self._actions for name in action.option_strings]
        name = word.partition("=")[0]
        if (meant := HABITS.get(name)) and (meant in options or not meant.startswith("--")):
            return f" (did you mean {meant}?)" if meant in options else f" ({meant})"
        return near(name, options, LIKE_AN_OPTION) if word.startswith("--") else ""


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question with the most similar of these words; empty if none is as similar as ``cutoff``, 0 to 1."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {found[0]}?)" if found else ""


def _run(name: str, arguments: Sequence[str], output: Output) -> int:
    """Run a command; the exit code. Each error is told on stderr, and as a JSON object where the output is one."""
    parser = CommandParser(name)
    level = None
    try:
        if name in ("optimizer", "train"):
            _one_thread_for_matrices()
        module = importlib.import_module(f"swarmtune.apps.cli.{COMMANDS[name][0]}")
        module.add_arguments(parser)
        parser.add_shared()
        parsed = parser.parse_args(getattr(module, "translated", list)(arguments))
        parsed.result = output
        level = parsed.log_level
        _log(level)
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
        if level:
            _log_error(error)
        code = EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAILED
        if code == EXIT_FAILED and error.culprit is Culprit.BUG:
            print("This should not happen. Please report it with the lines above.", file=sys.stderr)
        output.fail(error, code)
        return code
    except Exception as error:
        output.fail(repr(error), EXIT_FAILED, Culprit.BUG)
        raise


def level_of(text: str) -> str:
    """A level of the log, however it is spelled; AIPerf's own two are the next below."""
    return {"NOTICE": "INFO", "SUCCESS": "INFO"}.get(text.upper(), text.upper())


def _log(level: str | None) -> None:
    """Log to stderr from this level on; without one, nothing is logged there."""
    from loguru import logger

    logger.remove()
    if level is not None:
        logger.add(
            sys.stderr, level=level, format="{time:HH:mm:ss.SSS} {level} {message}", backtrace=False, diagnose=False
        )
        logger.debug("swarmtune {}, Python {}", __version__, sys.version.split()[0])


def _log_error(error: SwarmTuneError) -> None:
    """Where the error came from, for --log-level DEBUG."""
    from loguru import logger

    logger.opt(exception=error).debug("the error above")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt in the body, outside of imports; before and after it, the door of the command leaves
    at once.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or before is signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import, which may swallow it or stay half done, as soon as it is over."""
    if not _importing(frame):
        raise KeyboardInterrupt
    sys.setprofile(_interrupt_after_import)


def _interrupt_after_import(frame: FrameType, event: str, _: object) -> None:
    """For sys.setprofile, which forgets a function that raises."""
    if event == "return" and frame.f_code.co_filename == IMPORTING and not _importing(frame.f_back):
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether this code is called by an import."""
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None
