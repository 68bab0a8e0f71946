"""Any command line or start script as an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field as Option

from swarmtune.engines import document
from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.diagnosis import diagnose
from swarmtune.engines.document import DocumentError, ServiceFile
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.placement import PLACES, BoolStyle, flag, place, placed_twice, substitute, tokens, unknown_tokens
from swarmtune.engines.questions import Needed, Questions
from swarmtune.engines.readiness import serves
from swarmtune.engines.service_config import ServiceConfig, program
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, File, Group, Setting
from swarmtune.space import Field

RUNNERS = re.compile(r"(?P<python>python[0-9.]*)|(ba|da|z|k)?sh")  # programs that run a script
LONG_VALUED = ("--rcfile", "--init-file", "--check-hash-based-pycs")  # their options that a value follows
BATCHES = frozenset(  # without - and _, in lower case
    ("maxnumseqs", "maxrunningrequests", "maxbatchsize", "maxbatch", "batchsize", "batch", "nparallel", "parallel")
)


class CommandConfig(ServiceConfig):
    """The section ``[command]``. ``$UPPER_NAME`` in argv stands for a field's value, HOST, PORT, MODEL or ``env``."""

    argv: tuple[str, ...] = Option((), description='program and arguments: ["./start.sh", "$PORT", "$MAX_NUM_SEQS"]')
    model: str = Option("", description="model name that requests must carry")
    port: int = Option(0, ge=0, le=65535, description="port on which it serves; 0: any free one, given as PORT")
    ready_path: str = Option("/health", pattern="^/", description="answers 200 to GET when the service is up")
    completion_path: str = Option("/v1/completions", pattern="^/", description="one completion is tried here")
    config_path: str = Option("", description="JSON or YAML file of the service, for dotted config_positions")
    cwd: str = Option("", description="directory in which it runs; work_path is its older name")
    bool_flags: BoolStyle = Option("pair", description="how booleans are written: --x/--no-x, --x/nothing, --x true")


class CommandEngine(Engine):
    """The command gets the values in argv, in its environment, and in its file; it must serve on PORT."""

    name = "command"
    config: CommandConfig
    Config = CommandConfig
    spans_nodes = True

    def __init__(self, config: CommandConfig) -> None:
        super().__init__(config)
        self._file = ServiceFile(config.config_path)
        self.memory = KvMemory(config.memory, config.baselines, lambda: config.argv)

    def questions(self) -> Questions:
        """Program and script; its flags are its own."""
        argv = self._argv(self.config.variables)
        at, first = script_at(argv), argv[0] if argv else ""
        known = at is not None and "$" not in argv[at]
        needed = (Needed("script", "command.argv", argv[at]),) if at is not None and known else ()
        return Questions(
            "command.argv", what="script" if "/" in first else "program", needed=needed, program=program(first)
        )

    @property
    def model(self) -> str:
        """As configured."""
        return self.config.model

    @property
    def port(self) -> int:
        """As configured."""
        return self.config.port

    def fields(self) -> tuple[Field, ...]:
        """The user's: a command has no parameters of its own."""
        fields = [entry.to_field() for entry in self.config.target_field]
        return self.memory.bounded(fields, self._batch(fields))

    def _batch(self, fields: Sequence[Field]) -> str | None:
        """The field that is the batch size, by its name or the end of its place."""
        for field in fields:
            names = (field.name, field.config_position.rpartition(".")[2])
            if any(name.lower().replace("-", "").replace("_", "") in BATCHES for name in names):
                return field.name
        return None

    def constraints(self) -> tuple[str, ...]:
        """The bound of the KV cache."""
        fields = self.fields()
        return self.memory.rules(self._batch(fields), fields)

    def notes(self) -> list[str]:
        """What the memory table bounds."""
        fields = self.fields()
        return [*super().notes(), *self.memory.notes(fields, self._batch(fields))]

    def mistakes(self) -> list[str]:
        """Missing keys, unknown tokens, and paths without a file."""
        config, fields = self.config, self.fields()
        found = self.memory.mistakes(fields) or self.memory.exhausted("command", fields, self._batch(fields))
        if not config.argv or not config.argv[0].strip():
            found.append('command.argv: give the program and its arguments, for example ["./start.sh", "$PORT"]')
        if not config.model:
            found.append("command.model: give the model name that requests must carry")
        if not fields:
            found.append("command.target_field: give at least one parameter to tune")
        known = {f.name.upper() for f in fields} | set(PLACES) | config.env.keys()
        for token in unknown_tokens(config.argv, known):
            found.append(
                f"command.argv: ${token} is not a field, not one of {', '.join(PLACES)}, and not in command.env"
            )
        paths = [f.config_position for f in fields if f.config_position != "env" and not f.live]
        paths = [path for path in paths if not path.startswith("-")]
        return found + placed_twice(fields, "command") + self._path_mistakes(paths)

    def _path_mistakes(self, paths: list[str]) -> list[str]:
        if paths and not self.config.config_path:
            return [f"command.config_path: {paths[0]!r} is a path into a file; name the file"]
        found = []
        for path in paths:
            try:
                document.read(self._file.content, path)
            except DocumentError as error:
                found.append(f"command.target_field: {error.message}")
        return list(dict.fromkeys(found))

    def command(self, setting: Setting, group: Group) -> Command:
        """argv with the tokens replaced, flags appended; HOST, PORT and MODEL are also environment variables."""
        config = self.config
        placed = place(self.fields(), setting, write=partial(flag, style=config.bool_flags))
        places = {"HOST": group.master, "PORT": str(group.port), "MODEL": config.model}
        files: tuple[File, ...] = ()
        if placed.document:
            path = Path(config.config_path).absolute()
            files = (File(str(path), document.dump(document.changed(self._file.content, placed.document), path), True),)
        return Command(
            argv=(*self._argv({**config.env, **tokens(setting, **places)}), *placed.flags),
            env={**places, **config.env, **placed.env},
            files=files,
            cwd=config.cwd or config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    def _argv(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """A relative path of the program, and of a script that it runs, starts at the tuner's folder, unless ``cwd`` or
        ``work_path`` is set. A bare name that is no file there is left to the program, which may look on its PATH.
        """
        argv = [*substitute(self.config.argv, values)]
        if not argv or self.config.cwd or self.config.work_path:
            return tuple(argv)
        at = script_at(argv)
        argv[0] = program(argv[0])
        if at is not None and "$" not in argv[at] and ("/" in argv[at] or Path(argv[at]).is_file()):
            argv[at] = str(Path(argv[at]).absolute())
        return tuple(argv)

    async def ready(self, probe: Probe) -> bool:
        """GET ``ready_path``, then one completion."""
        return await serves(probe, self.model, self.config.ready_path, self.config.completion_path)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By the common patterns."""
        return diagnose(f"The command {self.config.argv[0] if self.config.argv else ''!r}", exit_code, log)


def script_at(argv: Sequence[str]) -> int | None:
    """Where the script stands that the first of these arguments, a shell or a Python, runs; None: it runs none."""
    runner = RUNNERS.fullmatch(Path(argv[0]).name) if argv else None
    if runner is None:
        return None
    # letters of options: behind these there is no script, and behind those a value
    none, valued = ("cm", "XW") if runner["python"] else ("cs", "oO")
    at = 1
    while at < len(argv):
        word = argv[at]
        if word == "--":
            return at + 1 if at + 1 < len(argv) else None
        if word == "-" or not word or word[0] not in "-+":
            return None if word == "-" else at
        at += 1
        if word.startswith("--"):
            at += word in LONG_VALUED
            continue
        for number, letter in enumerate(word[1:], 2):
            if letter in none:
                return None
            if letter in valued:
                at += number == len(word)
                break
    return None
