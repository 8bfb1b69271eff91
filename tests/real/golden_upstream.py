"""An upstream that gives the answers of tests/golden, without their pauses: prints its URL.

The request's `X-Request-Id` names the case.
"""

import socket
import sys
import threading

sys.path.insert(0, __file__.rsplit("/", 1)[0])

import golden  # noqa: E402
from wire import Message  # noqa: E402

CASES = {case.name: case for case in golden.cases() if case.status}


def serve(connection: socket.socket) -> None:
    with connection:
        held = b""
        while True:
            request = Message()
            held = request.push(held)
            while not request.complete:
                data = connection.recv(65536)
                if not data:
                    return
                held = request.push(data)
            case = CASES[request.header("x-request-id").decode()]
            connection.sendall(case.response())
            if case.ending == "cut":
                return


listener = socket.create_server(("127.0.0.1", 0))
print("http://%s:%d" % listener.getsockname()[:2], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
