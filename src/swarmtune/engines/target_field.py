"""The ``[[ENGINE.target_field]]`` entries of config.toml."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.records import Value
from swarmtune.space import Field


class TargetField(BaseModel):
    """One parameter as the user wrote it. ``Field.mistakes`` judges it; here only unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Option(min_length=1, description="name of the parameter, referred to by other fields and constraints")
    config_position: str = Option(
        "env",
        min_length=1,
        description='"env", a flag ("--max-num-seqs"), a path in the service\'s file, or "POST /path"',
    )
    min: float | None = Option(None, description="smallest value")
    max: float | None = Option(None, description="largest value")
    dtype: str = Option("int", description="int, float, bool, enum, range, ratio, share, factories, times, ... or env")
    value: Value | None = Option(None, description="baseline; the engine's own default where absent")
    dtype_param: Any = Option(None, description="what the dtype needs: the list of an enum, the step of a range, ...")
    constant: Value | None = Option(None, description="the only value: takes the field out of the search")
    log: bool = Option(False, description="search on a logarithmic scale")
    when: str | None = Option(None, description="in use only where this holds, e.g. \"speculative != 'off'\"")

    def to_field(self) -> Field:
        """The same entry as a field of the search space."""
        return Field(**{name: getattr(self, name) for name in type(self).model_fields})
