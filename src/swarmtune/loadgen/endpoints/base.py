"""The contract of an endpoint: turn in, body out; answer bytes in, Answer out. Pure: no sockets, no clocks."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmtune.errors import BenchmarkParseError, PluginError
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn

Piece = tuple[int, bytes]  # (where the bytes came from: the number of the read, body bytes of that read)
ChatMessage = Mapping[str, Any]  # a chat message: role and content
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")  # on the output tokens,
CHOICES = ("n", "best_of")  # and fields that ask for several answers at once
DECIDING = (*LIMITS, *CHOICES)
LINKS = (b'_url"', b'"file_id"')  # names of fields with an address, or their ends
LINKED_BYTES = 2**17  # counted for what stands behind addresses: as many tokens as the longest prompt has


@dataclass(slots=True)
class Answer:
    """The content of an answer. Mistakes are kept in ``error``, never raised; ``error`` None: it was complete.

    ``chunks``: one entry per event (or, not streamed, one for the whole answer) that carried content: the number of the
    read that brought its last byte. ``chunk_sizes``: characters of each; ``chunk_choices``: which of several choices it
    belongs to, empty where there is only one. ``stated_counts``: what the server said of completion_tokens with each
    chunk (continuous usage), else empty. ``chunk_tokens``: the tokens of each, filled by read/counts.py; empty: one each,
    or not known. ``choices``: how many answers it holds (n); ``results``: how many vectors or ranks, None without;
    ``highest``: the highest number of a passage that has a rank.
    ``first_answer``: index into ``chunks`` of the first one that is not reasoning, None without any.
    ``silent``: reads of the events of the generation that had no content, behind the first chunk: tokens without text, or
    the end (finish_reason); ``silent_before``: how many came before the first chunk, without those that greet (the role).
    ``text``: the content of the first choice without reasoning, ``content``: of all choices with it; both are filled only
    if asked for. Token counts: None if the server did not say, -1 if it said what is no count; whether the others can be
    true is decided by read/counts.py.
    """

    chunks: list[int] = field(default_factory=list)
    chunk_sizes: list[int] = field(default_factory=list)
    chunk_choices: list[int] = field(default_factory=list)
    stated_counts: list[int] = field(default_factory=list)
    chunk_tokens: list[float] = field(default_factory=list)
    choices: int = 1
    results: int | None = None
    highest: int = -1
    silent: list[int] = field(default_factory=list)
    silent_before: int = 0
    first_answer: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    text: str = ""
    content: str = ""
    finished: bool = False
    error: str | None = None


class Endpoint(ABC):
    """One API. ``produces_tokens`` False: it has no output tokens (embeddings, rankings), only a latency.

    ``limit_field``: the field of the body with the most output tokens; empty: it sends none.
    ``texts_before``: texts of a turn that come before the batch of prompt_batch_size (the query of rankings).
    """

    default_path: str
    produces_tokens = True
    limit_field = ""
    texts_before = 0

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        self.model = model
        self.options = options
        self.path = options.custom_endpoint or self.default_path
        self._given = {name: value for name, value in options.extra_body().items() if name in DECIDING}
        self._choices = _choices(self._given, limits=1)

    @property
    def streams(self) -> bool:
        """Do answers come as an event stream?"""
        return self.options.streaming and self.produces_tokens

    def expected_results(self, turn: Turn) -> int:
        """How many results (vectors, ranks) the answer to this turn has to hold; -1: it holds none, or that is not known."""
        del turn
        return -1

    @abstractmethod
    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        """The JSON body of this turn's request, after the messages of the turns before."""

    @abstractmethod
    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        """Understand the body of a 200 answer, streamed or not."""

    def refusal(self, turn: Turn) -> str:
        """Why this turn of a file cannot be sent as it is; empty: it can."""
        del turn
        return ""

    def most_tokens(self, turn: Turn) -> int:
        """The output tokens that this turn's request allows, those of all its choices together; -1: it sets no limit."""
        if turn.output_tokens is None or not self.limit_field:
            return -1
        if turn.payload is None and not turn.extra:
            choices = self._choices
        else:
            choices = _choices({**self._given, **(turn.payload or turn.extra)}, limits=turn.payload is None)
        return turn.output_tokens * choices if choices else -1

    def continued(self, history: Sequence[ChatMessage], turn: Turn, text: str) -> list[ChatMessage]:
        """The history after this turn was answered with ``text``."""
        mine = turn.messages or ({"role": "user", "content": "\n".join(turn.texts)},)
        system = ({"role": "system", "content": turn.system},) if turn.system and not history else ()
        return [*history, *system, *mine, {"role": "assistant", "content": text}]


def linked_bytes(payload: bytes) -> int:
    """What pictures and the like behind addresses in a request may have, as bytes of a prompt; 0 without any."""
    for name in LINKS:  # called for each request
        if name in payload:
            return LINKED_BYTES
    return 0


def _choices(given: Mapping[str, Any], limits: int) -> int:
    """How many answers these fields ask for; 0: the service has several limits or none, and which one it obeys is not known.

    ``limits``: how many limits the body has beside them.
    """
    if limits + sum(name in given for name in LIMITS) != 1:
        return 0
    return max([1, *(n for name in CHOICES if isinstance(n := given.get(name), int))])


def understood(endpoint: Endpoint, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
    """``endpoint.read``, whatever the service sent, and also where a plugin's endpoint did not expect it. Of a service that
    sends the whole text so far with each event, only what each adds.
    """
    try:
        answer = endpoint.read(pieces, keep_text=keep_text)
        if _rising(answer.chunk_sizes):
            _without_repeats(answer, endpoint.read(pieces, keep_text=True), keep_text=keep_text)
    except (BenchmarkParseError, PluginError) as error:  # of a plugin's endpoint
        return Answer(error=f"an answer that cannot be read: {error.message[:400]}")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return Answer(error=f"an answer that cannot be read: {type(error).__name__}: {str(error)[:200]}")
    return answer


def _rising(sizes: Sequence[int]) -> bool:
    """Is each text as long as the one before, or longer?"""
    if len(sizes) < 2 or sizes[-1] <= sizes[0]:
        return False
    return all(earlier <= later for earlier, later in itertools.pairwise(sizes))


def _without_repeats(answer: Answer, read: Answer, *, keep_text: bool) -> None:
    """Make each chunk what it adds, if each text begins with the one before. ``read``: the same with its text."""
    sizes = answer.chunk_sizes
    ends = list(itertools.accumulate(sizes))
    texts = [read.content[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if ends[-1] != len(read.content) or not all(b.startswith(a) for a, b in itertools.pairwise(texts)):
        return
    answer.chunk_sizes = [sizes[0], *(later - earlier for earlier, later in itertools.pairwise(sizes))]
    if keep_text:
        answer.content, answer.text = texts[-1], texts[-1] if read.text == read.content else read.text
