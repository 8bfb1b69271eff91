"""Upstreams that do exactly what a test tells them, and see exactly what is done to them."""

from __future__ import annotations

import contextlib
import json
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from wire import Message


def event(content: str | None = None, **more) -> bytes:
    """One SSE event of an OpenAI chat stream; without content it is the role-only first one."""
    delta = {"role": "assistant", "content": None} if content is None else {"content": content}
    chunk = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk | more).encode() + b"\n\n"


ENDING = (
    event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
    + b"data: [DONE]\n\n"
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Client:
    """What the scripted upstream holds in its hand: one connection with one request on it."""

    def __init__(self, connection: socket.socket, request: Message):
        self.connection = connection
        self.request = request

    def head(self) -> None:
        self.connection.sendall(HEAD)

    def chunk(self, data: bytes) -> None:
        self.connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def finish(self) -> None:
        self.chunk(ENDING)
        self.connection.sendall(b"0\r\n\r\n")

    def closed_at(self, timeout: float, meanwhile: Callable[[], None] = lambda: None) -> int | None:
        """When the other side closed, on the monotonic clock in ns; none where it has not after `timeout`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.connection], [], [], 0.005)
            at = time.monotonic_ns()
            try:
                if readable and self.connection.recv(65536) == b"":
                    return at
                meanwhile()
            except (ConnectionResetError, BrokenPipeError):
                return time.monotonic_ns()
        return None


@contextlib.contextmanager
def scripted(script: Callable[[Client], object]) -> Iterator[tuple[tuple[str, int], queue.Queue]]:
    """Runs `script` for each request that comes: the address, and a queue of what the script returned or raised."""
    results: queue.Queue = queue.Queue()
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held = b""
            while not over.is_set():
                request = Message()
                held = request.push(held)
                while not request.complete:
                    data = connection.recv(65536)
                    if not data:
                        return
                    held = request.push(data)
                result = script(Client(connection, request))
                results.put(result)
                if result is not None:
                    return

    def guarded(connection: socket.socket) -> None:
        try:
            serve(connection)
        except OSError as error:
            if not over.is_set():
                results.put(error)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[:2], results
    finally:
        over.set()
        listener.close()
