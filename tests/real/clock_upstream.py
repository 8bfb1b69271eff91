"""An upstream whose every event says when it was sent: `clock_upstream.py INTERVAL_MS` prints its URL.

A POST with `{"events": N}` is answered by N events, one each interval, each with the monotonic clock's nanoseconds at
the moment before it was handed to the kernel, and in its id those at which the request had been read. That clock is the
machine's, so a reader in another process can subtract.
"""

import json
import socket
import sys
import threading
import time

sys.path.insert(0, __file__.rsplit("/", 1)[0])

from upstreams import HEAD  # noqa: E402
from wire import Message  # noqa: E402

INTERVAL = float(sys.argv[1]) / 1000
EVENT = (
    'data: {"id":"%020d","object":"chat.completion.chunk","created":1,"model":"clock","choices":[{"index":0,'
    '"delta":{"content":" %020d"},"finish_reason":null}]}\n\n'
)


def serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = b""
    while True:
        request = Message()
        held = request.push(held)
        while not request.complete:
            data = connection.recv(65536)
            if not data:
                return
            held = request.push(data)
        read_at = time.monotonic_ns()
        connection.sendall(HEAD)
        due = time.monotonic()
        for _ in range(json.loads(bytes(request.body))["events"]):
            due += INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))
            data = (EVENT % (read_at, time.monotonic_ns())).encode()
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        done = b"data: [DONE]\n\n"
        connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))


listener = socket.create_server(("127.0.0.1", 0))
print("http://%s:%d" % listener.getsockname()[:2], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
