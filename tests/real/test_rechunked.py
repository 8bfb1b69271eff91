"""A proxy that buffers stands before the server, and cuts its answers anew: every number but times is the same."""

import contextlib
import zlib

import pytest

import golden
import programs
from wire import Connection, Message

# All in memory: nginx gives up the rights to write here.
BUFFERING = (
    "proxy_buffering on; proxy_buffers 64 64k; proxy_max_temp_file_size 0; "
    "client_body_buffer_size 16m; client_max_body_size 16m;"
)
COMPRESSING = BUFFERING + " gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"

# What the request log has beyond exchange.json: what differs from run to run.
VARYING = {"time", "request_id", "in_flight_at_start", "config"}


def is_playable(case: golden.Case) -> bool:
    """Whether a server can give the answer through a proxy that keeps it until there is enough: it ends, whole or
    cut, and it stays HTTP. What depends on when somebody has seen a part of it can't."""
    return case.ending in ("end", "cut") and case.status != 101


def numbers(line: dict, *without: str) -> dict:
    # What nobody reports depends on what was learned from the cases before, and on a tokenizer that replaying lacks.
    ours = {f"{side}_{what}" for side in ("input", "output") for what in ("tokens", "source")
            if line.get(f"{side}_source") in ("estimated", "tokenized")}  # fmt: skip
    return timeless(line, VARYING | ours | set(without))


def timeless(members: dict, left_out: set[str] = frozenset()) -> dict:
    """Members without times, those of members too."""
    kept = {name: value for name, value in members.items() if name not in left_out and not name.endswith("_seconds")}
    return {name: timeless(value) if isinstance(value, dict) else value for name, value in kept.items()}


def answer_to(address: tuple[str, int], sent: bytes) -> Message:
    with Connection(address) as connection:
        arrival = connection.send(sent)
        with contextlib.suppress(EOFError):
            while not arrival.answer.complete:
                connection.read(arrival)
        return arrival.answer


@pytest.mark.parametrize("settings", [BUFFERING, COMPRESSING], ids=["buffered", "buffered and in gzip"])
def test_every_case_reads_the_same_behind_nginx(tmp_path, settings):
    cases = [case for case in golden.cases() if is_playable(case)]
    compressed = set()
    with (
        programs.python("golden_upstream.py", tmp_path) as upstream,
        programs.nginx(upstream, tmp_path, settings) as nginx,
        programs.sidecar(nginx, tmp_path) as sidecar,
    ):
        for case in cases:
            accept = [b"Accept-Encoding: gzip"] if settings == COMPRESSING else []
            answer = answer_to(sidecar.address, case.request(b"X-Request-Id: " + case.name.encode(), *accept))
            assert answer.complete == (case.ending == "end"), case.name
            body = bytes(answer.body)
            own = any(golden.name_of(line) == b"content-encoding" for line in case.headers)
            if not own and answer.header("content-encoding") == b"gzip":
                compressed.add(case.name)
                body = zlib.decompressobj(wbits=31).decompress(body)  # as far as it goes
            assert answer.status == case.status, case.name
            if case.method != "HEAD" and case.status not in golden.BODILESS:
                assert body == b"".join(case.pieces), case.name
        sidecar.program.wait_until(lambda: len(sidecar.log()) >= len(cases), 20, "a line for each case")
        lines = {line["request_id"]: line for line in sidecar.log()}

    wrong = {}
    for case in cases:
        without = ["bytes_out"] if case.name in compressed else []
        want, got = numbers(case.exchange, *without), numbers(lines[case.name], *without)
        if want != got:
            wrong[case.name] = (want, got)
    print(f"{len(cases)} of {len(golden.cases())} cases, {len(compressed)} of them compressed by nginx")
    assert not wrong, wrong
    assert len(cases) >= 80 and (settings == BUFFERING or len(compressed) >= 60)
