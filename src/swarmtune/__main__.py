"""The door of the command ``swarmtune``: light, so that Ctrl-C is one line from the first moment to the last."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found] # of it signal is made, which takes milliseconds to import
import os


def leave(_number: int = signal.SIGINT, _frame: object = None) -> None:
    """Leave while nothing runs yet: imports may swallow an exception."""
    os.write(2, b"swarmtune: interrupted\n")
    os._exit(130)


def main() -> None:
    """Import the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and & ignore it, and so do we then
        signal.signal(signal.SIGINT, leave)
    from swarmtune.apps.cli import main as run

    try:
        run()
    finally:  # the command has ended, and its exit code stands
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
