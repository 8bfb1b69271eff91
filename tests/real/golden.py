"""Reads tests/golden: what was asked, what came back, and what it means. Times are left out.

The format is described in tests/golden/README.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "golden"
MARK = re.compile(rb"@[\d.]+(?:us|ms|s)(~?)(?: (\w+))?")
BODILESS = (204, 304)


@dataclass
class Case:
    """One case: its name, the request, the response's head and the pieces of its body, how it ended, and its line in the log."""

    name: str
    method: str
    target: str
    request_headers: list[bytes]
    request_body: bytes
    status: int
    headers: list[bytes]
    pieces: list[bytes]
    ending: str
    exchange: dict

    def request(self, *lines: bytes) -> bytes:
        """The request's bytes; `lines` are further headers, which stand for those of the same name."""
        own = {name_of(line) for line in lines} | {b"content-length"}
        headers = [line for line in self.request_headers if name_of(line) not in own]
        if not any(name_of(line) == b"host" for line in headers):
            headers.append(b"Host: api")
        if self.request_body:
            headers.append(b"Content-Length: %d" % len(self.request_body))
        head = [f"{self.method} {self.target} HTTP/1.1".encode(), *headers, *lines]
        return b"\r\n".join(head) + b"\r\n\r\n" + self.request_body

    def response(self) -> bytes:
        """The response's bytes; each piece is a chunk, where the body has no declared length. One that is cut has no end."""
        head = [b"HTTP/1.1 %d Fine" % self.status, *self.headers]
        bodiless = self.method == "HEAD" or self.status in BODILESS
        declared = any(name_of(line) == b"content-length" for line in self.headers)
        if bodiless or declared:
            return b"\r\n".join(head) + b"\r\n\r\n" + b"".join(self.pieces)
        head.append(b"Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in self.pieces)
        end = b"" if self.ending == "cut" else b"0\r\n\r\n"
        return b"\r\n".join(head) + b"\r\n\r\n" + body + end


def name_of(header: bytes) -> bytes:
    return header.split(b":", 1)[0].strip().lower()


def cases() -> list[Case]:
    """Every case, in order of its name."""
    return [read(path.parent) for path in sorted(ROOT.glob("*/*/exchange.json"))]


def read(folder: Path) -> Case:
    start, request_headers, request_body = head_and_body((folder / "request.http").read_bytes())
    method, target, _ = start.decode().split(" ")
    answer = (folder / "response.http").read_bytes()
    status, headers, pieces, ending = 0, [], [], ""
    first, _, rest = answer.partition(b"\n")
    if mark := MARK.fullmatch(first.rstrip(b"\r")):
        answer, ending = rest, (mark[2] or b"").decode()
    if not ending:
        start, headers, body = head_and_body(answer)
        status = int(start.split(b" ")[1])
        pieces, ending = marked(body)
    exchange = json.loads((folder / "exchange.json").read_text())
    exchange.pop("about")
    name = str(folder.relative_to(ROOT))
    return Case(name, method, target, request_headers, request_body, status, headers, pieces, ending, exchange)


def head_and_body(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The first line, the headers, and what comes after the empty line."""
    lines = []
    while True:
        line, newline, data = data.partition(b"\n")
        line = line.removesuffix(b"\r")
        assert newline, "the head has no empty line at its end"
        if not line:
            return lines[0], lines[1:], data
        lines.append(line)


def marked(body: bytes) -> tuple[list[bytes], str]:
    """The pieces of a body with marks, and the ending."""
    pieces, piece = [], b""
    for line in re.findall(rb"[^\n]*\n|[^\n]+", body):
        mark = None if line.startswith(b"@@") else MARK.fullmatch(line.rstrip(b"\r\n"))
        if mark is None:
            piece += line.removeprefix(b"@") if line.startswith(b"@@") else line
            continue
        if mark[1]:
            piece = piece.removesuffix(b"\n")
        pieces += [piece] if piece else []
        piece = b""
        if mark[2]:
            return pieces, mark[2].decode()
    raise ValueError("there is no ending mark")
