"""What the KV blocks of simulated requests hold, so far as others may hold the same."""

from __future__ import annotations

from collections.abc import Hashable

from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.timing import Ticket
from swarmtune.scheduling import Rules


class Contents:
    """Numbers the contents of blocks: those with the same number hold the same tokens behind the same tokens.

    A word of a text counts as a token, as the built-in tokenizer has it. What is sent fresh in every request, and is not
    the beginning of a later one, has no numbers.
    """

    def __init__(self, options: LoadgenOptions, rules: Rules) -> None:
        shared = options.input_file or options.public_dataset or options.num_dataset_entries
        shared = shared or options.shared_system_prompt_length or options.user_context_prompt_length
        several = options.conversation_turn_mean > 1 or options.conversation_turn_stddev > 0
        self.wanted = rules.prefix_caching and bool(shared or options.prompt_prefix_pool_size or several)
        self._size = rules.block_size
        self._known: dict[tuple[int, tuple[Hashable, ...]], int] = {}
        self._tokens: dict[int, list[Hashable]] = {}  # of the turns so far and their answers, by session

    def of(self, ticket: Ticket, prompt: int, output: int) -> list[int]:
        """Of the full blocks of this request's prompt and answer."""
        if not self.wanted:
            return []
        turn, session = ticket.request, ticket.session.index
        tokens = self._tokens.pop(session, []) if ticket.turn else []
        tokens += turn.system.split()
        for text in turn.texts:
            tokens += text.split()
        for message in turn.messages:
            tokens += str(message.get("content", "")).split()
        del tokens[prompt:]
        tokens += [(session, ticket.turn, "prompt", n) for n in range(prompt - len(tokens))]
        tokens += [(session, ticket.turn, "answer", n) for n in range(output)]
        if ticket.more:
            self._tokens[session] = tokens
        found, parent, size = [], -1, self._size
        for begin in range(0, len(tokens) - size + 1, size):
            parent = self._known.setdefault((parent, tuple(tokens[begin : begin + size])), len(self._known))
            found.append(parent)
        return found
