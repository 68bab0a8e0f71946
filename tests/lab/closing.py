"""What is made in steps, and closed when one of them fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Self


class Closing(ABC):
    """A context: ``open`` makes it, ``close`` ends whatever there is of it."""

    @abstractmethod
    def open(self) -> None:
        """Make it; what fails may leave a part."""

    @abstractmethod
    def close(self) -> None:
        """Nothing is left, also of a part."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.close)
            self.open()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
