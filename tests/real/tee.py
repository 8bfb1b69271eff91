"""A wire-tap: hands every byte on as it is between a client and a server, and keeps a copy of both directions."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from wire import Message


class Tee:
    """The bytes of each connection that was made, by direction."""

    def __init__(self):
        self.connections: list[tuple[bytearray, bytearray]] = []

    def exchanges(self) -> list[tuple[Message, Message]]:
        """Each request that went up with the answer that came down, connection by connection."""
        pairs = []
        for up, down in self.connections:
            up, down = bytes(up), bytes(down)
            while up:
                request = Message()
                up = request.push(up)
                answer = Message(answers=request.method)
                down = answer.push(down)
                assert request.complete and answer.complete, (request.start, answer.start)
                pairs.append((request, answer))
            assert not down, f"an answer without a request: {down[:80]!r}"
        return pairs


@contextlib.contextmanager
def tee(server: tuple[str, int]) -> Iterator[tuple[tuple[str, int], Tee]]:
    record = Tee()
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                copy += data
                sink.sendall(data)
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                upstream = socket.create_connection(server)
                sockets.extend((client, upstream))
                for end in (client, upstream):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                copies = (bytearray(), bytearray())
                record.connections.append(copies)
                threading.Thread(target=pump, args=(client, upstream, copies[0]), daemon=True).start()
                threading.Thread(target=pump, args=(upstream, client, copies[1]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[:2], record
    finally:
        for end in sockets:
            end.close()
