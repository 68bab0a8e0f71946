"""OpenAI completions: a prompt is continued. Conversations become one growing text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarmtune.loadgen.endpoints.base import ChatMessage
from swarmtune.loadgen.endpoints.bodies import lost_as_text, prompt_of
from swarmtune.loadgen.endpoints.chat import Chat
from swarmtune.workload.session import Turn


class Completions(Chat):
    """As chat, but with ``prompt`` for ``messages``."""

    default_path = "/v1/completions"

    def refusal(self, turn: Turn) -> str:
        return lost_as_text(turn)

    def _asked(self, turn: Turn, history: Sequence[ChatMessage]) -> dict[str, Any]:
        return {"prompt": prompt_of(turn, history)}
