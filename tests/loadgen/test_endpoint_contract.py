"""The contract of an endpoint, kept by two of ours."""

from __future__ import annotations

from loadgen_servers import TEXT

from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.endpoints.chat import Chat
from swarmtune.loadgen.endpoints.completions import Completions
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.testing.endpoint import EndpointContract


class TestCompletions(EndpointContract):
    answer = TEXT
    tokens = 3

    def make_endpoint(self) -> Endpoint:
        return Completions("m", LoadgenOptions())


class TestChatInOnePiece(EndpointContract):
    answer = (
        b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "a b"}, "finish_reason": "stop"}], '
        b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
    )
    tokens = 2

    def make_endpoint(self) -> Endpoint:
        return Chat("m", LoadgenOptions(endpoint_type="chat", streaming=False))
