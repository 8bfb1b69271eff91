"""Stands in for a pager: prints what Alertmanager sends, a line for each alert. `pager.py ADDRESS:PORT`"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Pager(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in body["alerts"]:
            what, notes = alert["labels"]["alertname"], alert["annotations"]
            print(self.path.strip("/").upper(), alert["status"], what, notes.get("summary", ""), notes.get("runbook_url", ""))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """The alerts are the log."""


if __name__ == "__main__":
    host, port = sys.argv[1].rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Pager)
    print("waiting at http://%s:%d" % server.server_address, flush=True)
    server.serve_forever()
