"""Stands before llama.cpp and takes its `timings` out of streams: `untimed_upstream.py HOST:PORT` prints its URL.

So it answers as a server that reports no tokens. `GET /predicted/ID` gives `predicted_n` of the exchange whose
`x-request-id` was ID.
"""

import json
import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SERVER = sys.argv[1]
predicted: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = json.dumps(predicted.get(self.path.rpartition("/")[2])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        connection = HTTPConnection(SERVER)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            event = b""
            for line in answer:
                event += self.without_timings(line)
                if line == b"\n":
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                    event = b""
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        connection.close()

    def without_timings(self, line: bytes) -> bytes:
        if not line.startswith(b"data: {"):
            return line
        event = json.loads(line.removeprefix(b"data: "))
        timings = event.pop("timings", None)
        if timings is None:
            return line
        predicted[self.headers["X-Request-Id"]] = timings["predicted_n"]
        return b"data: " + json.dumps(event).encode() + b"\n"

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("http://%s:%d" % server.server_address[:2], flush=True)
server.serve_forever()
