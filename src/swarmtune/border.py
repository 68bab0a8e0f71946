"""The border to the parts of plugins: what a part raises or returns against its contract becomes one clear error.

A guarded class is a subclass of the plugin's own that looks at each method, property and value of the contract. It
passes everything that fits, and SwarmTune's own errors, as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Union

from swarmtune.errors import BenchmarkParseError, PluginError, SwarmTuneError, one_line

PAGE = "docs/plugins.md"
MOST_SHOWN = 300  # characters of what a part raised
OURS = "swarmtune."
RAISED_AS = {"read": BenchmarkParseError}  # what the contract of a method names for everything that goes wrong in it
_inside: ContextVar[bool] = ContextVar("inside a method of a plugin", default=False)


def guarded(part: type, base: type, what: str) -> type:
    """The part with those members of ``base`` guarded that classes of a plugin define. ``what`` names the part."""
    members: dict[str, Any] = {
        "__module__": part.__module__,
        "__doc__": part.__doc__,
        "__qualname__": part.__qualname__,
    }
    made = types.new_class(part.__name__, (part,), exec_body=lambda space: space.update(members))
    for name in ("__init__", *(name for name in dir(base) if not name.startswith("_"))):
        owner = next((one for one in part.__mro__ if name in vars(one)), object)
        if owner is not object and not owner.__module__.startswith(OURS):
            contract = inspect.getattr_static(base, name, None)
            if (member := _member(made, name, vars(owner)[name], contract, what)) is not None:
                setattr(made, name, member)
    return made


def place_of(error: BaseException, file: str = "") -> str:
    """ " (FILE:LINE)" where this was raised: the last line in the folder of ``file``, else the last one that is not ours."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    ours = str(Path(__file__).parent)
    near = [frame for frame in frames if frame[0] == file]
    far = [f for f in frames if not f[0].startswith((ours, "<")) and f"{os.sep}importlib{os.sep}" not in f[0]]
    return "" if not (found := near or far) else f" ({found[-1][0]}:{found[-1][1]})"


@dataclasses.dataclass(frozen=True)
class _Member:
    """A member of a contract: of which part (``what``), its name, the type of its result, and the part's own function."""

    what: str
    name: str
    result: Any
    function: Any

    def error(self, does: str, place: str = "", kind: type[SwarmTuneError] = PluginError) -> SwarmTuneError:
        code = getattr(self.function, "__code__", None)
        place = place or (f" ({code.co_filename}:{code.co_firstlineno})" if code else "")
        text = f"The {self.what}: {self.name} {does}{place}; its author must mend that ({PAGE})."
        return kind(text, details={"part": self.what, "member": self.name})


def _member(made: type, name: str, own: Any, contract: Any, what: str) -> Any:
    """The guard of one member; None where there is nothing to guard."""
    if isinstance(own, property | functools.cached_property):
        function = own.fget if isinstance(own, property) else own.func
        asked = _Member(what, name, _returned(getattr(contract, "fget", None)), function)
        return property(lambda self: _looked(lambda: getattr(super(made, self), name), asked))
    function = own.__func__ if isinstance(own, classmethod | staticmethod) else own
    if not inspect.isfunction(function):
        return None
    shown = "__init__()" if name == "__init__" else f"{name}()"
    asked = _Member(what, shown, _returned(getattr(contract, "__func__", contract)), inspect.unwrap(function))
    if isinstance(own, classmethod | staticmethod):
        return classmethod(lambda cls, *a, **k: _looked(lambda: getattr(super(made, cls), name)(*a, **k), asked))

    def called(self: Any, *a: Any, **k: Any) -> Any:
        return _looked(lambda: getattr(super(made, self), name)(*a, **k), asked)

    async def awaited(self: Any, *a: Any, **k: Any) -> Any:
        return await _awaited(lambda: getattr(super(made, self), name)(*a, **k), asked)

    return functools.wraps(function)(awaited if inspect.iscoroutinefunction(contract) else called)


def _looked(call: Callable[[], Any], asked: _Member) -> Any:
    """What the part returns, if it fits its contract. A method that the part itself calls is its own affair."""
    if _inside.get():
        return call()
    with _translated(asked):
        value = call()
        value = tuple(value) if isinstance(value, Iterator) else value  # what it raises later is its own, too
    return _fitting(value, asked)


async def _awaited(call: Callable[[], Any], asked: _Member) -> Any:
    if _inside.get():
        return await call()
    with _translated(asked):
        coming = call()
        if isinstance(coming, Awaitable):
            return _fitting(await coming, asked)
    raise asked.error("is not `async def`")


def _fitting(value: Any, asked: _Member) -> Any:
    if misfit := _misfit(value, asked.result):
        if inspect.iscoroutine(value):
            value.close()
        raise asked.error(f"returned {misfit}")
    return value


@contextlib.contextmanager
def _translated(asked: _Member) -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    except SwarmTuneError:
        raise
    except (Exception, SystemExit) as error:
        text = one_line(str(error))[:MOST_SHOWN]
        file = getattr(getattr(asked.function, "__code__", None), "co_filename", "")
        kind = RAISED_AS.get(asked.name.removesuffix("()"), PluginError)
        raised = f"raised {type(error).__name__}{f': {text}' if text else ''}"
        raise asked.error(raised, place_of(error, file), kind) from error
    finally:
        _inside.reset(token)


def _returned(function: Any) -> Any:
    """The type that a member of a contract returns; Any where that cannot be told."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any


def _misfit(value: Any, expected: Any) -> str:
    """What is wrong with a value for this type, as "a dict, not Command"; empty if nothing is. What works in its place is
    right: a list for a tuple, a path for a text, any value for a truth.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any or isinstance(expected, typing.TypeVar) or origin is typing.Literal:
        return ""
    if expected in (None, type(None)) or expected is bool:
        return _other(value, expected) if inspect.isawaitable(value) else ""
    if origin in (Union, types.UnionType):
        wrong = [_misfit(value, one) for one in arguments if not (one is type(None) and value is not None)]
        return "" if (value is None and type(None) in arguments) or not all(wrong) else _other(value, expected)
    if expected is str:
        return "" if isinstance(value, str | os.PathLike) else _other(value, expected)
    if expected is bytes:
        return "" if isinstance(value, bytes | bytearray) else _other(value, expected)
    if expected in (int, float):
        whole = numbers.Integral if expected is int else numbers.Real
        return "" if isinstance(value, whole) else _other(value, expected)
    kind = origin or expected
    if not isinstance(kind, type):
        return ""
    if issubclass(kind, Mapping):
        return _of_mapping(value, expected, arguments)
    if issubclass(kind, Collection):
        return _of_collection(value, expected, arguments)
    if not isinstance(value, kind):
        return _other(value, expected)
    return _of_record(value) if dataclasses.is_dataclass(kind) and kind.__module__ == "swarmtune.records" else ""


def _of_mapping(value: Any, expected: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(value, Mapping):
        return _other(value, expected)
    inner = arguments or (Any, Any)
    pairs = [(k, inner[0]) for k in value] + [(v, inner[1]) for v in value.values()]
    wrong = next(filter(None, (_misfit(*pair) for pair in pairs)), "")
    return f"a mapping with {wrong}" if wrong else ""


def _of_collection(value: Any, expected: Any, arguments: tuple[Any, ...]) -> str:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        return _other(value, expected)
    several = len(arguments) > 1 and arguments[-1] is not Ellipsis
    if several and len(arguments) != len(value):
        return f"{len(value)} values, not {len(arguments)}"
    inner = arguments if several else (arguments[0] if arguments else Any,) * len(value)
    wrong = next(filter(None, map(_misfit, value, inner)), "")
    return f"a {type(value).__name__} with {wrong}" if wrong else ""


def _of_record(value: Any) -> str:
    hints = typing.get_type_hints(type(value))
    fields = [field.name for field in dataclasses.fields(value)]
    wrong = ((name, _misfit(getattr(value, name), hints.get(name, Any))) for name in fields)
    return next((f"a {type(value).__name__} whose {name} is {misfit}" for name, misfit in wrong if misfit), "")


def _other(value: Any, expected: Any) -> str:
    kind = type(value).__name__
    given = "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
    name = expected.__name__ if isinstance(expected, type) and not typing.get_args(expected) else str(expected)
    for package in ("collections.abc.", "typing.", "swarmtune.records.", "swarmtune.errors.", "swarmtune.space.field."):
        name = name.replace(package, "")
    return f"{given}, not {name}"
