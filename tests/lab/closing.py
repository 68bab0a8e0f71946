"""What is made in steps, and closed when one of them fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
