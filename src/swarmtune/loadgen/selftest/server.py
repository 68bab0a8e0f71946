"""A server of known timing: each completion gets its first token TTFT after its request came, and the others at even
intervals, each in a packet of its own. It writes down when it sent each: the truth.

``python -m swarmtune.loadgen.selftest.server TTFT_MS ITL_MS LOG``: listens on a free port of the loopback and prints it;
when its standard input ends, it writes the log and ends.

Log, little endian, per answered request: u32 length of the id, u32 tokens, i64 received_ns, i64 sent_ns[tokens], id
(CLOCK_MONOTONIC).
"""

from __future__ import annotations

import contextlib
import re
import resource
import selectors
import socket
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from swarmtune.files import created

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENTRY = struct.Struct("<IIq")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NAME = re.compile(rb"\r\nx-request-id: *([^\r]*)", re.IGNORECASE)
TOKENS = re.compile(rb'"max_tokens": *(\d+)')
IDLE_NS = 200_000_000
DESCRIPTORS = 40_000  # sockets, where that may be had
TURN = 64  # tokens sent before the sockets are looked at again


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str, reason: str) -> bytes:
    """A completion chunk as vLLM writes it."""
    body = (
        '{"id":"cmpl-0123456789abcdef","object":"text_completion","created":1763800000,"model":"self-test","choices":'
        f'[{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{reason},"stop_reason":null}}]}}'
    )
    return chunk(f"data: {body}\n\n".encode())


TOKEN, LAST = event(" token", "null"), event(" token", '"length"')


def closing(tokens: int) -> bytes:
    """Usage and the end."""
    usage = f'{{"prompt_tokens":1,"completion_tokens":{tokens},"total_tokens":{tokens + 1}}}'
    return chunk(
        f'data: {{"object":"text_completion","choices":[],"usage":{usage}}}\n\ndata: [DONE]\n\n'.encode()
    ) + chunk(b"")


@dataclass(eq=False, slots=True)
class Stream:
    """One connection and the answer on it."""

    socket: socket.socket
    data: bytes = b""
    name: bytes = b""
    tokens: int = 0
    due_ns: int = 0
    received_ns: int = 0
    sent_ns: list[int] = field(default_factory=list)
    open: bool = True


class Server:
    """One thread; ``serve`` until ``stop`` can be read."""

    def __init__(self, ttft_ns: int, itl_ns: int) -> None:
        self._ttft_ns, self._itl_ns = ttft_ns, itl_ns
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.port = int(self._listener.getsockname()[1])
        self._firsts: deque[Stream] = deque()  # both are in order of due_ns
        self._nexts: deque[Stream] = deque()
        self.log = bytearray()

    def serve(self, stop: int) -> None:
        """Answer until this descriptor is readable."""
        self._selector.register(stop, selectors.EVENT_READ)
        while True:
            due_ns = self._send_due()
            left_ns = min(IDLE_NS, max(0, due_ns - time.monotonic_ns()))
            for key, _ in self._selector.select(left_ns / 1e9):
                if isinstance(key.data, Stream):
                    self._receive(key.data)
                elif key.fd == stop:
                    return
                else:
                    self._accept()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except BlockingIOError:
                return
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(made, selectors.EVENT_READ, Stream(made))

    def _receive(self, stream: Stream) -> None:
        try:
            data = stream.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            stream.open = False
            self._selector.unregister(stream.socket)
            stream.socket.close()
            return
        stream.data += data
        head, found, rest = stream.data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not found or len(rest) < (int(length[1]) if length else 0):
            return
        name, tokens = NAME.search(head), TOKENS.search(rest)
        stream.data = b""
        stream.name = name[1] if name else b""
        stream.tokens = int(tokens[1]) if tokens else 1
        stream.sent_ns = []
        stream.received_ns = time.monotonic_ns()
        stream.due_ns = stream.received_ns + self._ttft_ns
        self._firsts.append(stream)

    def _send_due(self) -> int:
        """Send what is due; when the next is."""
        for _ in range(TURN):
            queue = min((self._firsts, self._nexts), key=lambda q: q[0].due_ns if q else 2**62)
            if not queue:
                return 2**62
            if queue[0].due_ns > time.monotonic_ns():
                return queue[0].due_ns
            stream = queue.popleft()
            if stream.open:
                self._send(stream)
        return 0

    def _send(self, stream: Stream) -> None:
        last = len(stream.sent_ns) + 1 == stream.tokens
        data = LAST if last else TOKEN
        if not stream.sent_ns:
            data = HEAD + data
        stream.sent_ns.append(time.monotonic_ns())
        try:
            stream.socket.send(data)
            if last:
                stream.socket.send(closing(stream.tokens))
        except OSError:
            return  # the client does not read, or has gone: it will be told
        if last:
            self.log += ENTRY.pack(len(stream.name), stream.tokens, stream.received_ns)
            self.log += array("q", stream.sent_ns).tobytes() + stream.name
        else:
            stream.due_ns += self._itl_ns
            self._nexts.append(stream)


def read_log(path: Path) -> Iterator[tuple[str, int, list[int]]]:
    """(request id, received, sent stamps) of every answered request."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        length, tokens, received_ns = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        stamps = array("q", data[at : at + 8 * tokens]).tolist()
        at += 8 * tokens
        yield data[at : at + length].decode(), received_ns, stamps
        at += length


def main(arguments: list[str]) -> int:
    """See the module."""
    ttft_ms, itl_ms, log = arguments
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # without it there are fewer connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, DESCRIPTORS),) * 2)
    server = Server(round(float(ttft_ms) * 1e6), round(float(itl_ms) * 1e6))
    print(server.port, flush=True)  # noqa: T201 - its parent reads it
    server.serve(sys.stdin.fileno())
    with created(Path(log)) as file:
        file.write(server.log)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
