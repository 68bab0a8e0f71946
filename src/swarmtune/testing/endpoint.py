"""What every endpoint of the load generator must do. Inherit ``EndpointContract`` in a test class; see its attributes."""

from __future__ import annotations

from abc import abstractmethod

import pytest

from swarmtune.loadgen.endpoints.base import Answer, Endpoint, understood
from swarmtune.workload.session import Turn

TURN = Turn(texts=("Say this again",), input_tokens=3, output_tokens=7)
NONSENSE = (b"", b"<html>", b"[]", b"{}", b"null", b"data: [DONE]\n\n", b"\xff\xfe")


class EndpointContract:
    """Tests of the contract in ``loadgen/endpoints/base.py``.

    ``answer``: the body of a whole, successful answer of the service. ``tokens``: how many output tokens it says that it
    has; None: it says nothing of them.
    """

    answer: bytes
    tokens: int | None

    @abstractmethod
    def make_endpoint(self) -> Endpoint:
        """The endpoint, with its options."""

    def understand(self, *bodies: bytes) -> Answer:
        """What the endpoint makes of these reads."""
        return understood(self.make_endpoint(), list(enumerate(bodies)), keep_text=True)

    def test_the_path_is_one(self) -> None:
        assert self.make_endpoint().path.startswith("/")

    def test_the_body_carries_the_text_and_is_the_same_each_time(self) -> None:
        endpoint = self.make_endpoint()
        body = endpoint.body(TURN)
        assert isinstance(body, bytes)
        assert TURN.texts[0].encode() in body
        assert body == endpoint.body(TURN) == self.make_endpoint().body(TURN)

    def test_an_answer_is_understood(self) -> None:
        found = self.understand(self.answer)
        assert found.error is None
        assert found.finished
        assert set(found.chunks) == {0}
        assert found.completion_tokens == self.tokens

    def test_it_is_the_same_in_pieces(self) -> None:
        """``chunks`` name the read that brought the last byte, so the last one is near the end."""
        whole, size = self.understand(self.answer), len(self.answer)
        for at in range(1, size, max(1, size // 20)):
            found = self.understand(self.answer[:at], self.answer[at:])
            assert (found.text, found.completion_tokens, found.error) == (whole.text, whole.completion_tokens, None)
            assert len(found.chunks) == len(whole.chunks)
            assert set(found.chunks) <= {0, 1}

    @pytest.mark.parametrize("body", NONSENSE)
    def test_nonsense_is_no_answer(self, body: bytes) -> None:
        found = self.understand(body)
        assert found.error is not None or not found.finished or not found.chunks

    def test_half_an_answer_is_no_answer(self) -> None:
        found = self.understand(self.answer[: len(self.answer) // 2])
        assert found.error is not None or not found.finished
