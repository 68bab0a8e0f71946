"""The keys that the sections of all engines share, and those of the older tuner that are read and have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.engines.memory import MemoryConfig
from swarmtune.engines.placement import split
from swarmtune.engines.target_field import TargetField
from swarmtune.files import environment_names

PLACEHOLDERS = frozenset({"", "port", "host", "model", "model_path", "served_model_name", "model_name"})


class ServiceConfig(BaseModel):
    """Base of every engine's section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_field: tuple[TargetField, ...] = Option((), description="parameters to tune; the engine's own if empty")
    env: Annotated[dict[str, str], AfterValidator(environment_names)] = Option(
        default_factory=dict, description="environment variables of the service"
    )
    memory_limit_bytes: int | None = Option(None, gt=0, description="address space that each process may take, bytes")
    memory: MemoryConfig | None = Option(None, description="bounds batch sizes by what the KV cache holds")
    work_path: str = Option("", description="directory in which the service runs; the executor's choice if empty")
    output: str = Option("", description="read for older files; not used, results are in the study's directory")
    process_name: str = Option("", description="read for older files; not used, nothing is ended by name")

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of which no field has the name."""
        names = {entry.name.upper() for entry in self.target_field}
        return {name: value for name, value in self.env.items() if name not in names}

    def may_set(self, variable: str) -> bool:
        """Is this variable of the service on, or can a field turn it on?"""
        on = self.env.get(variable, "").strip().lower() not in ("", "0", "false")
        return on or any(entry.name.upper() == variable for entry in self.target_field)

    @property
    def baselines(self) -> frozenset[str]:
        """Names of the fields whose baseline the user chose."""
        return frozenset(entry.name for entry in self.target_field if entry.value is not None)


class CommandSection(BaseModel):
    """The table ``[ENGINE.command]`` of the older tuner. Sample files hold placeholders: port = "port"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Option("", description="address of the service; the group's is used")
    port: int | str = Option("", description="port of the service, used where the group names none")
    model: str = Option("", description="path or name of the model")
    served_model_name: str = Option("", description="name that requests must carry; the model's if empty")
    others: str | tuple[str, ...] = Option("", description="further arguments; $UPPER_NAME stands for a field's value")

    @property
    def served(self) -> str:
        """The model name that requests must carry."""
        return self.model if self.served_model_name in PLACEHOLDERS else self.served_model_name

    @property
    def model_argument(self) -> str:
        """The model as an argument of the service: an existing path is made absolute, as services run in other folders."""
        return str(Path(self.model).absolute()) if self.model and Path(self.model).exists() else self.model

    def port_for(self, group_port: int) -> int:
        """The group's port; the section's where the group names none; 8000 where neither does."""
        text = str(self.port)
        return group_port or (int(text) if text.isascii() and text.isdigit() else 8000)

    def mistakes(self, key: str) -> list[str]:
        """Placeholders that were never filled in, and arguments that cannot be split, as sentences."""
        found = others_mistakes(self.others, f"{key}.others")
        if self.model in PLACEHOLDERS:
            found.append(f"{key}.model: {self.model!r} is not a model; give the path or name of one")
        if self.model.startswith("~"):
            found.append(
                f"{key}.model: {self.model!r}: nothing expands ~ where the service starts; write the whole path"
            )
        text = str(self.port)
        if text and not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            found.append(f"{key}.port: {self.port!r} is not a port; give a number from 1 to 65535 or leave it out")
        return found


def program(executable: str) -> str:
    """A path made absolute; a bare name is left as it is, to be looked up on the PATH of the node."""
    return str(Path(executable).absolute()) if "/" in executable else executable


def others_mistakes(others: str | Sequence[str], key: str) -> list[str]:
    """A sentence if the text cannot be split into arguments."""
    try:
        split(others)
    except ValueError as error:
        return [f"{key}: cannot be split into arguments: {error}"]
    return []
