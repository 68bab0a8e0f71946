"""The ``[[ENGINE.target_field]]`` entries of config.toml."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic import Field as Option
from pydantic_core import PydanticCustomError

from swarmtune.records import Value
from swarmtune.space import Field

HABITS = {  # keys of a field, as other tuners call them
    **dict.fromkeys(("default", "baseline", "initial", "current"), "value"),
    **dict.fromkeys(("choices", "values", "options", "enum", "list"), 'dtype_param = [...] with dtype = "enum"'),
    **dict.fromkeys(("step", "stride"), 'dtype_param = STEP with dtype = "range"'),
    **dict.fromkeys(("flag", "argument", "option", "arg"), "config_position"),
    **dict.fromkeys(("low", "lower", "start"), "min"),
    **dict.fromkeys(("high", "upper", "end"), "max"),
    **dict.fromkeys(("condition", "only_if", "depends_on"), "when"),
    **dict.fromkeys(("type", "kind"), "dtype"),
    "fixed": "constant",
}


def _no_text(value: Any) -> Any:
    if isinstance(value, str):
        raise PydanticCustomError("number_as_text", "a number is written without quotes")
    return value


Bound = Annotated[float | None, BeforeValidator(_no_text)]


class TargetField(BaseModel):
    """One parameter as the user wrote it. ``Field.mistakes`` judges it; here only unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Option(min_length=1, description="name of the parameter, referred to by other fields and constraints")
    config_position: str = Option(
        "env",
        min_length=1,
        description='"env", a flag ("--max-num-seqs"), a path in the service\'s file, or "POST /path"',
    )
    min: Bound = Option(None, description="smallest value")
    max: Bound = Option(None, description="largest value")
    dtype: str = Option("int", description="int, float, bool, enum, range, ratio, share, factories, times, ... or env")
    value: Value | None = Option(None, description="baseline; the engine's own default where absent")
    dtype_param: Any = Option(None, description="what the dtype needs: the list of an enum, the step of a range, ...")
    constant: Value | None = Option(None, description="the only value: takes the field out of the search")
    log: bool = Option(False, description="search on a logarithmic scale")
    when: str | None = Option(None, description="in use only where this holds, e.g. \"speculative != 'off'\"")

    def to_field(self) -> Field:
        """The same entry as a field of the search space."""
        return Field(**{name: getattr(self, name) for name in type(self).model_fields})

    def mistakes(self) -> list[str]:
        """That a constant alone is of another kind than the ``dtype`` that is written: int, which is also the default."""
        made, written = self.to_field(), "dtype" in self.model_fields_set
        alone = self.dtype == "int" and self.min is None and self.max is None
        if made.constant is None or not (alone and written) or not (reason := made.unlike(made.constant)):
            return []
        return [f"{self.name}: constant {made.constant!r} {reason}"]
