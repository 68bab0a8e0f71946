"""MindIE: a daemon that is tuned through its config.json.

It runs on Ascend hardware; here it is tested against a stand-in daemon that reads the same file.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Option

from swarmtune.engines import document, mindie_checks
from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.baseline import is_number, range_notes, with_default, with_share
from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.diagnosis import Cause, Patterns, diagnose
from swarmtune.engines.document import DocumentError, ServiceFile
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.mindie_checks import SCHEDULE
from swarmtune.engines.mindie_ranks import rank_rules, sizes
from swarmtune.engines.mindie_schema import SCHEMA, default_fields, more_fields, number_mistakes
from swarmtune.engines.placement import place, placed_twice, split, substitute, tokens
from swarmtune.engines.questions import Questions, local_model
from swarmtune.engines.readiness import completes, healthy
from swarmtune.engines.rules import Rule, broken_rules, open_rules
from swarmtune.engines.schema import underscored
from swarmtune.engines.service_config import ServiceConfig
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, File, Group, Setting, Value
from swarmtune.space import Field

SECURE = "ServerConfig.httpsEnabled"
MODEL = "BackendConfig.ModelDeployConfig.ModelConfig.0"
MODEL_NAME = f"{MODEL}.modelName"
DEPLOYED = f"{MODEL}."
WEIGHTS = f"{MODEL}.modelWeightPath"
MEMORY, LONGEST = f"{MODEL}.npuMemSize", "BackendConfig.ModelDeployConfig.maxSeqLen"
LONGEST_PROMPT = "BackendConfig.ModelDeployConfig.maxInputTokenLen"
PORT = "ServerConfig.port"
METRICS_PORT, MANAGEMENT_IP = "ServerConfig.metricsPort", "ServerConfig.managementIpAddress"
SUCCESS = "Daemon start success!"
NUMERIC = ("int", "float", "range", "ratio", "bool")
HOME = "MIES_INSTALL_PATH"  # MindIE's own variable: the folder of its installation
INSTALLED = "/usr/local/Ascend/mindie/latest/mindie-service"
DAEMON, CONFIG = "bin/mindieservice_daemon", "conf/config.json"  # below the installation
PATTERNS: Patterns = {
    Cause.PORT_TAKEN: (r"port.{0,40}(already|is) (in use|used|occupied)", r"\bMIE04E02041C\b|failed to listen "),
    Cause.OUT_OF_MEMORY: (r"\bMIE05E(01000A|000005)\b",),
    Cause.DEVICE_ERROR: (r"\bMIE05E01000B\b",),
    Cause.BAD_ARGUMENT: (
        r"(invalid|illegal) (config|param)",
        r"\bmax\w+\b.{0,80}(\btoo (large|small)\b|(should|must) be ([<>=]|(in|at|no|not|less|greater)\b))",
        r"\bout of bound \[|\] is (less|greater) than \[|(should|must) not be (less|greater) than [a-z]",
        r"\bthe (value of )?[\w.]{1,80} can ?not be (0\b|set (less|greater)\b)",
        r"\bMIE0(4E\w{4}1B|5E0[23]0000|5E00000[03])\b",
    ),
}


class MindieConfig(ServiceConfig):
    """The section ``[mindie]``."""

    command: str | tuple[str, ...] | dict[str, Any] = Option(
        f"{INSTALLED}/{DAEMON}", description="the daemon's command line (older files: an empty table)"
    )
    config_path: str = Option(
        f"{INSTALLED}/{CONFIG}", description=f"the daemon's file; put back afterwards; {HOME} moves the default"
    )
    config_bak_path: str = Option("", description="read for older files; not used, the supervisor keeps the original")
    model: str = Option("", description="model name that requests must carry; modelName of the file if empty")
    port: int = Option(0, ge=0, le=65535, description="port of the service; 0: any free one, written to port_path")
    port_path: str = Option(PORT, description="where the file holds the port; empty: leave it as it is")
    ready: Literal["log", "health"] = Option("log", description=f'"log": the line "{SUCCESS}"; "health": GET /health')

    @property
    def installation(self) -> str:
        """The folder of MindIE Service."""
        return self.env.get(HOME, "").rstrip("/") or INSTALLED

    @property
    def file(self) -> str:
        """The daemon's file: as configured, else that of the installation."""
        return self.config_path if "config_path" in self.model_fields_set else f"{self.installation}/{CONFIG}"

    @property
    def daemon(self) -> str | tuple[str, ...]:
        """The daemon's command line: as configured, else that of the installation."""
        if "command" not in self.model_fields_set or isinstance(self.command, dict):
            return f"{self.installation}/{DAEMON}"
        return self.command


class MindieEngine(Engine):
    """Values go into a copy of config.json as it was when this engine was made."""

    name = "mindie"
    own_variables = (HOME,)
    config: MindieConfig
    Config = MindieConfig

    def __init__(self, config: MindieConfig) -> None:
        super().__init__(config)
        self.memory = KvMemory(config.memory, config.baselines, self._division)
        self._bound = BatchMemory(self.memory, "mindie", config.baselines)
        self._file = ServiceFile(config.file)

    def questions(self) -> Questions:
        """The daemon, and the weights that its file or a field names by a path."""
        needed = local_model(*self._weights)
        try:
            program = "".join(split(self.config.daemon)[:1])
        except ValueError:  # a quote is not closed
            program = ""
        return Questions("mindie.command", needed=needed, program=program)

    @property
    def _weights(self) -> tuple[str, str]:
        """Where the path of the weights is written, and the path; empty if there is none."""
        path, key = document.read_or(self._content, WEIGHTS, ""), "mindie.config_path"
        for entry in self.config.target_field:
            if entry.config_position == WEIGHTS and entry.constant is not None:
                path, key = entry.constant, f"mindie.target_field {entry.name}"
        return key, path if isinstance(path, str) else ""

    @property
    def model_folder(self) -> str:
        """That of the weights."""
        return self._weights[1]

    @property
    def original(self) -> Any:
        """The daemon's file before anything was tuned. DocumentError if it cannot be read."""
        return self._file.content

    @property
    def model(self) -> str:
        """As configured, or ``modelName`` of the first model in the file."""
        return self.config.model or str(document.read(self.original, MODEL_NAME))

    @property
    def port(self) -> int:
        """As configured; without a ``port_path`` to write it to, what the file holds."""
        if self.config.port or self.config.port_path:
            return self.config.port
        port = document.read(self.original, PORT)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise DocumentError(f"{PORT}: {reprlib.repr(port)} is not a port; give a number from 1 to 65535")
        return port

    def metrics_url(self, group: Group) -> str:
        """GET /metrics on a port of its own, at the address for management where the file names one."""
        port, host = (document.read_or(self.original, path, "") for path in (METRICS_PORT, MANAGEMENT_IP))
        return f"http://{host or group.master}:{port}/metrics" if str(port).isdecimal() else ""

    def fields(self) -> tuple[Field, ...]:
        """The user's, or the scheduler's; the baseline of a field without a value is what the file holds."""
        fields = SCHEMA.in_use(self._with_values(mindie_checks.kept(self._named, self._content)), self._switches)
        return self._bound.bounded(fields, self._batch(fields))

    @property
    def _named(self) -> tuple[Field, ...]:
        return tuple(entry.to_field() for entry in self.config.target_field) or default_fields()

    def notes(self) -> list[str]:
        """Ranges that were widened for what the file holds, also those of its own fields."""
        fields = self.fields()
        doubts = [f"mindie: {doubt}; no setting is excluded for it" for doubt in self._rank_rules(fields)[1]]
        places = mindie_checks.notes(self._content, f"mindie: {self.config.file}", fields, self.config.env)
        return [*range_notes(self._named, fields), *self._bound.notes(fields, self._batch(fields)), *doubts, *places]

    @property
    def longest_request(self) -> int | None:
        """maxSeqLen."""
        return self._of_all_settings(LONGEST)

    @property
    def longest_prompt(self) -> int | None:
        """maxInputTokenLen."""
        return self._of_all_settings(LONGEST_PROMPT)

    @property
    def longest_answer(self) -> int | None:
        """maxIterTimes."""
        return self._of_all_settings(f"{SCHEDULE}.maxIterTimes")

    def _of_all_settings(self, path: str) -> int | None:
        """The number that every setting has there: the file's, or a field's one value; None without one."""
        values = [f.fixed for f in self.fields() if f.config_position == path]
        value = values[-1] if values else document.read_or(self._content, path, None)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """All others of its schema."""
        set_by = SCHEMA.fields_by_parameter(self.fields())
        every = self._with_values((*default_fields(), *more_fields()))
        return tuple((f, "") for f in every if underscored(f.config_position) not in set_by)

    def model_fields(self, model: str) -> tuple[Field, ...]:
        """The folder of the weights; the name under which it is served stays that of the file."""
        try:
            folder = Path(model).expanduser().absolute()
            if not model.startswith(("/", "./", "../", "~")) and not folder.is_dir():
                return ()
        except (OSError, RuntimeError, ValueError):  # a name that no path can have
            return ()
        return (Field("model_weight_path", WEIGHTS, dtype="enum", constant=str(folder)),)

    @property
    def _switches(self) -> dict[str, Value]:
        """The switch of the file on which other parameters depend, as rules name it."""
        selected = document.read_or(self._content, f"{SCHEDULE}.supportSelectBatch", None)
        return {"supportselectbatch": selected} if isinstance(selected, bool) else {}

    @property
    def _content(self) -> Any:
        try:
            return self.original
        except DocumentError:
            return {}

    def ranks(self) -> Mapping[str, str]:
        """Tensor, pipeline, data and context parallel ranks: fields, or what the file says; worldSize if it says no tp."""
        fields = self.fields()
        given = sizes(self._content, MODEL, SCHEMA.fields_by_parameter(fields))
        if "tp" not in given and "worldSize" in given:
            return {"worldSize": given["worldSize"]}
        return {name: given.get(name, "1") for name in SCHEMA.ranks}

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return SCHEMA.fields_by_parameter(fields).get("maxbatchsize")

    def _division(self) -> tuple[str, ...]:
        """How the file divides the model, and what it says of the memory, as arguments."""
        world, tensor, data = (document.read_or(self.original, DEPLOYED + key, 1) for key in ("worldSize", "tp", "dp"))
        data = data if is_number(data) and data > 1 else 1
        tensor = tensor if is_number(tensor) and tensor > 1 else world // data if is_number(world) else 1
        named = {f.config_position for f in self._named}
        sizes = (document.read_or(self.original, path, 0) if path not in named else 0 for path in (MEMORY, LONGEST))
        memory, longest = (int(size) if is_number(size) and size > 0 else 0 for size in sizes)
        return (
            *("--tensor-parallel-size", str(tensor), "--data-parallel-size", str(data)),
            *((f"npuMemSize={memory}G",) if memory else ()),
            *((f"maxSeqLen={longest}",) if longest else ()),
        )

    def _with_values(self, fields: Sequence[Field]) -> tuple[Field, ...]:
        made = {f.name: self._with_current(f) for f in fields}
        # of a ratio the file holds the resulting number, not the share
        return tuple(
            with_share(f, made.get(str(f.dtype_param)), self._current(f)) if f.dtype == "ratio" else made[f.name]
            for f in fields
        )

    def _with_current(self, made: Field) -> Field:
        return made if made.value is not None else with_default(made, self._current(made))

    def _current(self, made: Field) -> Any:
        """What the file holds, or the daemon's default where it may leave the parameter out; None for other places."""
        if made.config_position in ("env", "") or made.live:
            return None
        try:
            return document.read(self.original, made.config_position)
        except DocumentError:
            known = SCHEMA.find(made.config_position)
            return known.default if known else None

    def constraints(self) -> tuple[str, ...]:
        """What the daemon checks between its numbers, and a batch is at most what the KV cache holds."""
        fields = self.fields()
        rules = SCHEMA.constraints(fields, self._batches) + tuple(self.reasons())
        return rules + self._bound.rules(fields, self._batch(fields))

    def reasons(self) -> Mapping[str, str]:
        """Why the rules between the scheduler and the model hold."""
        return open_rules(self._rules)

    @property
    def _rules(self) -> list[Rule]:
        return mindie_checks.rules(self._content, SCHEMA.fields_by_parameter(self.fields()))

    @property
    def _batches(self) -> dict[str, Value]:
        """The batch sizes of the file, as rules name them; none where they contradict each other."""
        sizes = [
            document.read_or(self._content, SCHEDULE + key, 0) for key in (".maxPrefillBatchSize", ".maxBatchSize")
        ]
        prefill, batch = (int(size) if is_number(size) else 0 for size in sizes)
        return {"maxprefillbatchsize": prefill, "maxbatchsize": batch} if 0 < prefill <= batch else {}

    def node_rules(self, nodes: int) -> Mapping[str, str]:
        """Parallel ranks make up worldSize, and the devices of the file are as many."""
        rules, _ = self._rank_rules(self.fields(), nodes)
        return {rule.text: f"{self.config.file}: {rule.why}" for rule in rules}

    def _rank_rules(self, fields: Sequence[Field], nodes: int = 1) -> tuple[list[Rule], list[str]]:
        """The rules between parallel ranks, and what speaks against those that are left out."""
        return rank_rules(self._content, MODEL, fields, SCHEMA.fields_by_parameter(fields), nodes)

    def mistakes(self) -> list[str]:
        """A file that cannot be read, places that it does not have, flags (the daemon takes none)."""
        found: list[str] = []
        if isinstance(self.config.command, dict) and self.config.command:
            found.append(f"mindie.command: unknown keys {', '.join(self.config.command)}; write the command line")
        try:
            if not isinstance(self.original, dict):
                return [
                    *found,
                    f"mindie.config_path: {self.config.file} holds {reprlib.repr(self.original)}, no object",
                ]
            fields = self.fields()
            found += self._bound.mistakes(fields, self._batch(fields)) + placed_twice(fields, "mindie")
            paths = [f.config_position for f in fields if f.config_position != "env" and not f.live]
            more = (self.config.port_path, "" if self.config.model else MODEL_NAME)
            found += self._path_mistakes([*paths, *filter(None, more)])
            found += number_mistakes(self.original, MODEL, f"mindie: {self.config.config_path}", paths)
            found += mindie_checks.file_mistakes(self.original, f"mindie: {self.config.file}", self._named)
            found += mindie_checks.field_mistakes(self._named, self.config.port_path)
            found += broken_rules(self._rules, f"mindie: {self.config.file}")
            found += self._baseline_mistakes()
            if document.read_or(self.original, SECURE, False) is True and SECURE not in paths:
                why = "SwarmTune asks a service that it starts by HTTP; set it to false"
                found.append(f"mindie: {self.config.file}: {SECURE} is true, but {why}")
            if not self.config.model and document.read_or(self.original, MODEL_NAME, "x") in ("", None):
                found.append(
                    f"mindie: {self.config.file}: {MODEL_NAME} is empty, and requests must name a model; set it"
                )
            _ = self.port
        except DocumentError as error:
            found += [
                *self.memory.mistakes(),
                *placed_twice(self._named, "mindie"),
                f"mindie.config_path: {error.message}",
            ]
        return list(dict.fromkeys(found))

    def _baseline_mistakes(self) -> list[str]:
        """Values of today that are of another kind than the fields that search them: they are no baselines."""
        found = []
        for made in self._named:
            if made.value is not None or not made.searched or made.live or made.dtype not in NUMERIC:
                continue
            try:
                current = document.read(self.original, made.config_position)
            except DocumentError:  # not there: the daemon's own, or another mistake
                continue
            if reason := _no_baseline(made, current):
                where = f"mindie: {self.config.config_path}: {made.config_position}"
                found.append(f"{where} is {reprlib.repr(current)}, not {reason}, or write `value`")
        return found

    def _path_mistakes(self, paths: Sequence[str]) -> list[str]:
        """A sentence for each reason why places are not in the file."""
        reasons: dict[str, list[str]] = {}
        for path in dict.fromkeys(paths):
            known = SCHEMA.find(path)
            try:
                if known and known.name == path:  # a parameter that the file may leave out
                    document.changed(self.original, {path: 0})
                else:
                    document.read(self.original, path)
            except DocumentError as error:
                reasons.setdefault(error.message.removeprefix(f"{path}: "), []).append(path)
        return [f"mindie: {self.config.file}: {', '.join(several)}: {reason}" for reason, several in reasons.items()]

    def command(self, setting: Setting, group: Group) -> Command:
        """The daemon with the changed file."""
        config = self.config
        placed = place(self.fields(), setting)
        values: dict[str, Value] = dict(placed.document)
        if config.port_path and group.port:
            values[config.port_path] = group.port
        path = Path(config.file).absolute()
        content = document.dump(corrected(document.changed(self.original, values)), path)
        known = {**config.env, **tokens(setting, HOST=group.master, PORT=str(group.port))}
        return Command(
            argv=substitute(split(config.daemon), known),
            env={**config.env, **placed.env},
            files=(File(str(path), content, restore=True),),
            cwd=config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    async def ready(self, probe: Probe) -> bool:
        """The line in the log or GET /health, then one completion."""
        if self.config.ready == "log":
            up = SUCCESS in await probe.logs()
        else:
            up = await healthy(probe)
        return up and await completes(probe, self.model)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By MindIE's own messages first."""
        return diagnose("MindIE", exit_code, log, PATTERNS)


def _no_baseline(made: Field, current: Any) -> str:
    """Why the value that a file holds cannot be the baseline of a field, as the end of a sentence; empty if it can."""
    if made.dtype == "bool":
        return "" if current in (0, 1) else "true or false; correct the file"
    if not is_number(current):
        return "a number; correct the file"
    if made.log and current <= 0:
        return "above 0, where a logarithmic scale begins; leave out `log`"
    return "a whole number; correct the file" if made.dtype == "int" and current != int(current) else ""


def corrected(tuned: Any) -> Any:
    """The file, changed in place where the daemon would refuse it.

    A prefill batch holds at least one request. The two times per request mean something only while batches are
    selected by cost (supportSelectBatch); without it they are 0.
    """
    try:
        schedule = document.read(tuned, SCHEDULE)
    except DocumentError:
        return tuned
    if not isinstance(schedule, dict):
        return tuned
    if schedule.get("maxPrefillBatchSize") == 0:
        schedule["maxPrefillBatchSize"] = 1
    if schedule.get("supportSelectBatch") is False:
        for name in ("prefillTimeMsPerReq", "decodeTimeMsPerReq"):
            if name in schedule:
                schedule[name] = 0
    return tuned
