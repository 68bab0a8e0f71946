"""The same contract within a process, over a socket, and over ZeroMQ."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarmtune.errors import (
    BenchmarkExecutionError,
    CommunicationError,
    ConfigPathError,
    ConfigValidationError,
    IPCTimeoutError,
)
from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.links import SocketLink
from swarmtune.loadgen.distributed.messages import (
    Begin,
    BusMessage,
    Done,
    Gone,
    Grant,
    Heartbeat,
    Piece,
    Ping,
    Pong,
    ReadPiece,
    Stop,
)
from swarmtune.loadgen.distributed.network import Hub, Member, Token, parts_of

ENOUGH_S = 10.0


@dataclass
class Ends:
    """Two ends that can reach each other."""

    here: Bus
    there: Bus

    def until(self, condition: Callable[[], bool]) -> None:
        """Serve both until then."""
        for _ in range(1000):
            if condition():
                return
            for bus in {id(bus): bus for bus in (self.here, self.there)}.values():
                bus.wait(0.01)
        pytest.fail("did not happen")


def over_zmq(path: Path) -> tuple[Bus, Bus]:
    here, there, token = Bus(), Bus(), Token.at(path / "token")
    hub = Hub("tcp://127.0.0.1:0", token)
    here.attach(hub)
    there.attach(Member(hub.address, token), "a", Member.PEER)
    return here, there


@pytest.fixture(params=["in process", "socket", "zmq"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    if request.param == "in process":
        here = there = Bus()
    elif request.param == "socket":
        here, there = Bus(), Bus()
        for bus, end in zip((here, there), socket.socketpair(), strict=True):
            bus.attach(SocketLink(end))
    else:
        here, there = over_zmq(tmp_path)
    made = Ends(here, there)
    heard: list[str] = []
    here.channel("a").subscribe(Heartbeat, lambda sender, _: heard.append(sender))
    there.channel("b").publish(Heartbeat("running"), "a")
    made.until(lambda: bool(heard))
    yield made
    here.close()
    there.close()


@pytest.fixture
def served(ends: Ends) -> Iterator[Ends]:
    """The other end serves itself, in a thread if it is another one."""
    if ends.there is ends.here:
        yield ends
        return
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            ends.there.wait(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    yield ends
    over.set()
    thread.join()


def test_messages_come_in_order_and_whole(ends: Ends) -> None:
    got: list[BusMessage] = []
    ends.there.channel("b").subscribe(Begin, lambda _, m: got.append(m))
    ends.there.channel("b").subscribe(Grant, lambda _, m: got.append(m))
    ends.there.channel("b").subscribe(Piece, lambda _, m: got.append(m))
    sent = [
        Begin(2**60), Grant(Block(3, 5, 2, 1)), Grant(None), Piece(os.urandom(100_000), -1), *(Begin(i) for i in range(50)),
    ]  # fmt: skip
    for message in sent:
        ends.here.channel("a").publish(message, "b")
    ends.until(lambda: len(got) == len(sent))
    assert got == sent


def test_only_those_who_are_meant_and_have_subscribed(ends: Ends) -> None:
    got: list[str] = []
    for name in ("b", "c"):
        ends.there.channel(name).subscribe(Stop, lambda sender, _, name=name: got.append(f"{sender}->{name}"))
    ends.there.channel("c").subscribe(Begin, lambda *_: got.append("done"))
    ends.here.channel("a").publish(Stop())
    ends.here.channel("a").publish(Stop(), "c")
    ends.here.channel("a").publish(Begin(1), "b")  # b did not subscribe to it
    ends.here.channel("a").publish(Begin(2), "c")
    ends.until(lambda: "done" in got)
    assert got == ["a->b", "a->c", "a->c", "done"]


def test_a_request_is_answered(served: Ends) -> None:
    served.there.channel("b").subscribe(Ping, lambda *_: Pong(1, 2))
    assert served.here.channel("a").request(Ping(), "b", ENOUGH_S) == Pong(1, 2)


def test_several_questions_at_a_time_get_their_own_answers(served: Ends) -> None:
    served.there.channel("b").subscribe(ReadPiece, lambda _, m: Piece(m.file.encode(), m.offset))
    pendings = [served.here.channel("a").ask(ReadPiece("w", str(i), i), "b") for i in range(20)]
    served.until(lambda: all(p.done for p in pendings)) if served.there is served.here else wait_for(served, pendings)
    assert [p.answer() for p in pendings] == [Piece(str(i).encode(), i) for i in range(20)]


def wait_for(ends: Ends, pendings: list) -> None:
    while not all(p.done for p in pendings):
        ends.here.wait(0.1)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (CommunicationError("nobody there"), CommunicationError, "nobody there"),
        (IPCTimeoutError("slow"), CommunicationError, "slow"),
        (ConfigValidationError(["x is wrong"]), ConfigValidationError, "x is wrong"),
        (ConfigPathError("no file"), ConfigPathError, "no file"),
        (OSError(28, "No space left", "/spool"), OSError, "No space left.*spool"),
        (RuntimeError("bug"), BenchmarkExecutionError, "b failed.*bug"),
    ],
)
def test_an_error_of_the_other_side_is_raised_here(
    served: Ends, raised: Exception, kind: type[Exception], words: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    served.there.channel("b").subscribe(Ping, fail)
    with pytest.raises(kind, match=words):
        served.here.channel("a").request(Ping(), "b", ENOUGH_S)


def test_no_answer_in_time(served: Ends) -> None:
    with pytest.raises(IPCTimeoutError, match="b did not answer within"):
        served.here.channel("a").request(Ping(), "b", 0.05)


def test_a_handler_may_wait_for_others(ends: Ends) -> None:
    got: list[BusMessage] = []

    def slow(*_: object) -> Done:
        while not got:
            ends.there.wait(0.01)
        return Done()

    ends.there.channel("b").subscribe(Ping, slow)
    ends.there.channel("b").subscribe(Stop, lambda _, m: got.append(m))
    pending = ends.here.channel("a").ask(Ping(), "b")
    ends.here.channel("a").publish(Stop(), "b")
    ends.until(lambda: pending.done)
    assert pending.answer() == Done()


def test_the_end_of_a_process_is_known_at_once() -> None:
    here, there = socket.socketpair()
    bus, got = Bus(), []
    bus.attach(SocketLink(here), "b", SocketLink.PEER)
    bus.channel("a").subscribe(Gone, lambda sender, _: got.append(sender))
    there.close()
    with pytest.raises(CommunicationError, match="b cannot be reached"):
        bus.channel("a").request(Ping(), "b", ENOUGH_S)
    assert got == ["b"]
    bus.close()


def test_a_bus_in_the_middle_passes_on(tmp_path: Path) -> None:
    top, middle = over_zmq(tmp_path)
    leaf = Bus()
    for bus, end in zip((middle, leaf), socket.socketpair(), strict=True):
        bus.attach(SocketLink(end))
    got: list[str] = []
    top.channel("a").subscribe(Heartbeat, lambda sender, _: got.append(sender))
    leaf.channel("w").subscribe(Stop, lambda sender, _: got.append(f"stop from {sender}"))
    leaf.channel("w").publish(Heartbeat("running"), "a")
    for _ in range(1000):
        for bus in (top, middle, leaf):
            bus.wait(0.01)
        if len(got) == 1:
            top.channel("a").publish(Stop(), "w")
        if len(got) > 1:
            break
    assert got[:2] == ["w", "stop from a"]
    for bus in (top, middle, leaf):
        bus.close()


def test_bytes_of_somebody_else_are_told() -> None:
    here, there = socket.socketpair()
    bus = Bus()
    bus.attach(SocketLink(here))
    there.sendall(b"\0\0\0\x03abc")
    with pytest.raises(CommunicationError, match="same version"):
        bus.wait(1)
    there.close()
    bus.close()


def test_a_token_is_secret_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = Token.at(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Token.at(path) == Token.read(path) == token
    huge = tmp_path / "huge"
    huge.touch(mode=0o600)
    os.truncate(huge, 2**40)
    with pytest.raises(ConfigPathError, match="is not a token"):
        Token.read(huge)
    path.chmod(0o644)
    with pytest.raises(ConfigPathError, match="chmod 600"):
        Token.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"controller_public": 3}', "\x00"])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigPathError, match="is not a token"):
        Token.read(path)
    with pytest.raises(ConfigPathError, match="copy it here"):
        Token.read(tmp_path / "none")


@pytest.mark.parametrize("address", ["localhost:1", "http://x:1", "tcp://x", "tcp://x:99999", "tcp://x:1/y", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigValidationError, match="tcp://HOST:PORT"):
        parts_of(address)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CommunicationError, match="another port"):
        Hub(f"tcp://127.0.0.1:{taken.getsockname()[1]}", Token.at(tmp_path / "token"))
