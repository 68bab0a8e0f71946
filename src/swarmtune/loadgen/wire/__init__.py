"""Wire: many HTTP connections at once, every read stamped and spooled; in C where it was compiled, else in Python."""

from __future__ import annotations

from pathlib import Path

from swarmtune.loadgen.wire.base import Wire


def make_wire(spool: Path, *, kind: str = "auto", batch_s: float = 0.0005) -> Wire:
    """The fastest wire that there is here, writing to ``spool``. ``kind``: "auto", or "native" or "python" by name.

    ``batch_s``: while many events come, they may gather this long; the kernel has stamped them.
    """
    from swarmtune.loadgen.wire import native

    if kind == "native" or (kind == "auto" and native.available()):
        return native.NativeWire(spool, batch_s)
    from swarmtune.loadgen.wire.python import PythonWire

    return PythonWire(spool, batch_s)


def notice(kind: str = "auto") -> str | None:
    """What to say to a user whose load would have gone through the part in C, had it been built."""
    from swarmtune.loadgen.wire import native

    if kind == "python" or native.available():
        return None
    return (
        "the load generator's hot path in C was not built, for want of a C compiler when SwarmTune was installed; the one "
        "in Python takes about twice the CPU for each event. Install gcc, then reinstall: "
        "pip install --force-reinstall --no-deps --no-binary swarmtune swarmtune"
    )
