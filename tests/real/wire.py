"""HTTP/1.1 over raw sockets: what was sent and what arrived, byte for byte and with times.

Knows nothing of Streamgauge. No HTTP library stands between the test and the wire, so headers keep their case and
order, chunks their bounds, and each read its time on the monotonic clock.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field

# RFC 9110 section 7.6.1: what concerns one connection only, and may differ on the two sides of a proxy.
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


class Message:
    """One request or answer, taken in as its bytes come: `push` gives back what lies behind its end."""

    def __init__(self, *, answers: bytes | None = None):
        """`answers` is the method of the request that is answered; without it the message is a request."""
        self.answers = answers
        self.start = b""
        self.lines: list[bytes] = []
        self.body = bytearray()
        self.trailers: list[bytes] = []
        self.complete = False
        self.head_complete = False
        self._held = bytearray()
        self._take = self._take_head

    def push(self, data: bytes) -> bytes:
        self._held += data
        while not self.complete and self._take():
            pass
        if not self.complete:
            return b""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    def closed(self) -> None:
        """The connection ended: the end of an answer that has no other, an error for all others."""
        if self._take == self._take_to_close:
            self.complete = True
        if not self.complete:
            raise EOFError(f"the message broke off after {len(self.body)} bytes of body: {self.start!r}")

    @property
    def status(self) -> int:
        return int(self.start.split(b" ", 2)[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ", 1)[0]

    def header(self, name: str) -> bytes | None:
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> list[bytes]:
        found = (line.split(b":", 1) for line in self.lines)
        return [value.strip() for key, value in found if key.lower() == name.lower().encode()]

    def json(self):
        return json.loads(bytes(self.body))

    def _line(self) -> bytes | None:
        end = self._held.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._held[:end])
        del self._held[: end + 2]
        return line

    def _take_head(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not self.start:
            self.start = line
        elif line:
            self.lines.append(line)
        else:
            self._head_ended()
        return True

    def _head_ended(self) -> None:
        if self.answers is not None and self.status // 100 == 1 and self.status != 101:
            self.start, self.lines = b"", []  # 100 Continue: the answer proper is yet to come
            return
        self.head_complete = True
        length = self.header("content-length")
        if self.answers == b"HEAD" or self.answers is not None and self.status in (101, 204, 304):
            self.complete = True
        elif b"chunked" in (self.header("transfer-encoding") or b"").lower():
            self._take = self._take_chunk_size
        elif length is not None:
            self._left = int(length)
            self._take = self._take_length
            self.complete = self._left == 0
        elif self.answers is None:
            self.complete = True
        else:
            self._take = self._take_to_close

    def _take_length(self) -> bool:
        part = self._held[: self._left]
        del self._held[: len(part)]
        self.body += part
        self._left -= len(part)
        self.complete = self._left == 0
        return False

    def _take_to_close(self) -> bool:
        self.body += self._held
        self._held.clear()
        return False

    def _take_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._left = int(line.split(b";", 1)[0], 16)
        self._take = self._take_chunk if self._left else self._take_trailers
        return True

    def _take_chunk(self) -> bool:
        part = self._held[: self._left]
        del self._held[: len(part)]
        self.body += part
        self._left -= len(part)
        if self._left or len(self._held) < 2:
            return False
        assert self._held[:2] == b"\r\n", "a chunk does not end where it says"
        del self._held[:2]
        self._take = self._take_chunk_size
        return True

    def _take_trailers(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            self.trailers.append(line)
        else:
            self.complete = True
        return not self.complete


def end_to_end(message: Message) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """The headers that a proxy must hand on, by lower-case name: each as it is written, in the order of that name.

    Blanks around a value are no part of it (RFC 9110 section 5.5); a proxy may drop them.
    """
    listed = {name.strip().lower() for value in message.headers("connection") for name in value.split(b",")}
    fields: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for line in message.lines:
        name, value = line.split(b":", 1)
        if name.lower() not in HOP_BY_HOP | listed:
            fields.setdefault(name.lower(), []).append((name, value.strip(b" \t")))
    return fields


@dataclass
class Arrival:
    """An answer and when it came. Times are nanoseconds of the monotonic clock."""

    sent_at: int
    answer: Message
    marks: list[tuple[int, int]] = field(default_factory=list)  # after each read: when, and how much body there was

    def when_body_had(self, length: int) -> int:
        return next(at for at, had in self.marks if had >= length)

    def events(self) -> list[tuple[int, bytes]]:
        """The answer's SSE events: when the last byte of each had come, and its data."""
        events, begin, body = [], 0, bytes(self.answer.body)
        while (end := body.find(b"\n\n", begin)) >= 0:
            block, begin = body[begin:end], end + 2
            data = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
            if data:
                events.append((self.when_body_had(begin), b"\n".join(data)))
        return events

    def first_content_after(self) -> float | None:
        """Seconds from sending the request to the first event with a token, as an OpenAI client sees it."""
        for at, data in self.events():
            if data != b"[DONE]" and any(has_token(choice) for choice in json.loads(data).get("choices", [])):
                return (at - self.sent_at) / 1e9
        return None

    def prompt_seconds(self) -> float:
        """How long llama.cpp says that it read the prompt, at a stream's end."""
        stated = [json.loads(data).get("timings") for _, data in self.events() if data != b"[DONE]"]
        return next(timings["prompt_ms"] for timings in reversed(stated) if timings) / 1e3

    def usage(self) -> dict | None:
        """The last usage that the answer states, streamed or whole."""
        if (self.answer.header("content-type") or b"").startswith(b"text/event-stream"):
            stated = [json.loads(data).get("usage") for _, data in self.events() if data != b"[DONE]"]
        else:
            stated = [self.answer.json().get("usage")]
        return next((usage for usage in reversed(stated) if usage), None)


def has_token(choice: dict) -> bool:
    delta = choice.get("delta") or {}
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls") or choice.get("text"))


def request(method: str, path: str, address: tuple[str, int], body: object = None, *lines: str) -> bytes:
    """A request's bytes. `body` may be bytes, or anything that goes into JSON."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", *lines]
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        named = {line.split(":", 1)[0].lower() for line in lines}
        if "content-type" not in named:
            head.append("Content-Type: application/json")
        if "transfer-encoding" not in named:
            head.append(f"Content-Length: {len(content)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


class Connection:
    """A client's connection, kept open from one exchange to the next."""

    def __init__(self, address: tuple[str, int], timeout: float = 60):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def exchange(self, sent: bytes) -> Arrival:
        arrival = self.send(sent)
        while not arrival.answer.complete:
            self.read(arrival)
        return arrival

    def send(self, sent: bytes) -> Arrival:
        method = sent.split(b" ", 1)[0]
        at = time.monotonic_ns()
        self.socket.sendall(sent)
        return Arrival(at, Message(answers=method))

    def read(self, arrival: Arrival) -> None:
        """One read of the socket."""
        data = self.socket.recv(65536)
        at = time.monotonic_ns()
        if not data:
            arrival.answer.closed()
            return
        rest = arrival.answer.push(data)
        assert not rest, f"bytes after the answer's end: {rest[:80]!r}"
        arrival.marks.append((at, len(arrival.answer.body)))

    def read_until_body_has(self, arrival: Arrival, needle: bytes) -> None:
        while needle not in arrival.answer.body:
            assert not arrival.answer.complete, f"{needle!r} never came: {bytes(arrival.answer.body)!r}"
            self.read(arrival)

    def reset(self) -> None:
        """Leaves at once, with a reset instead of an orderly close."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()


def exchange(address: tuple[str, int], sent: bytes) -> Arrival:
    """One exchange over a connection of its own."""
    with Connection(address) as connection:
        return connection.exchange(sent)
