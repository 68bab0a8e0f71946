"""The unit of all data: a session of one or more turns. A single request is a session of one turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: the part that a user adds to the conversation, not the whole conversation.

    ``texts``: the prompt as one text; several for a batch (embeddings) or, for rankings, the query and then its passages.
    ``messages``: chat messages to be sent instead, as the API has them. ``payload``: a whole body to be sent instead.
    ``system``: text of a system prompt; only a session's first turn has one.
    ``input_tokens``: length of what this turn adds, as asked for or counted; ``output_tokens``: answer to ask for, None:
    the server decides. ``delay_ns``: think time between the end of the answer before and this request.
    ``interval_ns``: instead, time between the intended send of the turn before and of this one (user-centric).
    """

    texts: tuple[str, ...]
    input_tokens: int
    output_tokens: int | None = None
    system: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    payload: Mapping[str, Any] | None = None
    delay_ns: int = 0
    interval_ns: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Session:
    """The turns of one user, in order; ``start_ns``: intended start after the run's start, if the data has one."""

    index: int
    turns: tuple[Turn, ...]
    start_ns: int | None = None


class Dataset(ABC):
    """Sessions by number. The same arguments and seed give the same sessions in every process."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many different sessions there are; None: any number."""

    @abstractmethod
    def session(self, index: int) -> Session:
        """Session number ``index`` (from 0); beyond ``size`` the data begins again (its turns, with this index)."""

    @property
    def schedule(self) -> tuple[int, ...] | None:
        """Intended starts of all sessions, ns after the run's start, ascending; None if the data has no times."""
        return None

    def without_texts(self) -> Dataset:
        """The same sessions by their lengths, for those who send nothing; texts that were made here are empty."""
        return self

    @property
    def counts(self) -> Mapping[str, Any]:
        """What the data are, and what of them is not sent, as plain data; empty if they are made here."""
        return {}

    def notes(self, sessions: int, model: str) -> list[str]:
        """What a reader should know of what was sent, left out or sent otherwise, after so many sessions to ``model``."""
        del sessions, model
        return []
