"""The usage ledger on a real disk: a process that is killed, a disk that is full."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import programs
from exposition import Scraper
from wire import Connection, request

ASK = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
SYNC = 0.1


def configured(tmp_path: Path, upstream: tuple[str, int], folder: Path, rotate: str) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"upstream: http://{upstream[0]}:{upstream[1]}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
        "models: [{name: sim, price: {currency: USD, input: 0.9, output: 0.6}}]\n"
        f"request_log: {{path: none}}\nusage_ledger: {{path: {folder}, rotate: {rotate}, sync: {SYNC * 1000:.0f}ms}}\n"
    )
    return [programs.streamgauge(), "run", "--config", str(config)]


@contextlib.contextmanager
def sidecar(command: list[str], folder: Path):
    with programs.running(command, folder, "streamgauge") as program:
        said = program.wait_for(r"base URL to (http://\S+:\d+)\b.*(http://\S+:\d+/metrics)")
        yield programs.Sidecar(program, said[1], said[2])


def ask(connection: Connection, address: tuple[str, int], name: str) -> None:
    sent = request("POST", "/v1/chat/completions", address, ASK, f"x-request-id: {name}")
    assert connection.exchange(sent).answer.status == 200


def lines(folder: Path) -> list[dict]:
    """All whole lines, as docs/cost.md says they are to be read."""
    whole = []
    for file in sorted(folder.glob("usage-*.jsonl")):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                whole.append(json.loads(line))
    return whole


def of_one_run(found: list[dict]) -> None:
    """Numbered from 1 without a gap, nothing twice."""
    assert len({line["run"] for line in found}) == 1
    assert [line["seq"] for line in found] == list(range(1, len(found) + 1))


def test_a_killed_process_leaves_every_line_that_was_synced_and_none_twice(tmp_path):
    folder = tmp_path / "usage"
    with programs.simulated(tmp_path, "--ttft", "2ms", "--tps", "0") as upstream:  # more would keep both cores busy
        command = configured(tmp_path, upstream, folder, "64KiB")
        answered: list[tuple[float, str]] = []

        def load(worker: int, address: tuple[str, int]) -> None:
            with contextlib.suppress(OSError, EOFError), Connection(address) as connection:
                for number in range(1_000_000):
                    name = f"{worker}-{number}"
                    ask(connection, address, name)
                    answered.append((time.monotonic(), name))

        with sidecar(command, tmp_path / "first") as first:
            workers = [threading.Thread(target=load, args=(n, first.address)) for n in range(4)]
            for worker in workers:
                worker.start()
            begun = time.monotonic()

            def is_under_way() -> bool:
                return time.monotonic() > begun + 4 and len(list(folder.glob("*"))) >= 5

            first.program.wait_until(is_under_way, 60, "four seconds and five files")
            killed = time.monotonic()
            first.program.process.send_signal(signal.SIGKILL)
            first.program.process.wait(5)
            for worker in workers:
                worker.join(10)
        found = lines(folder)
        of_one_run(found)
        # What waits on the way: notes and lines gather for 25 ms, 0.9 s were seen of two cores that had no time left.
        settled = {name for at, name in answered if at < killed - SYNC - 2}
        assert settled <= {line["request_id"] for line in found}
        assert len(settled) > 50
        assert all(file.stat().st_size <= 64 << 10 for file in folder.glob("*"))
        assert all(file.stat().st_mode & 0o027 == 0 for file in [folder, *folder.glob("*")])

        # A kill in the middle of a write is rare: what it leaves is put there.
        last = sorted(folder.glob("*"))[-1]
        with open(last, "ab") as file:
            file.write(b'{"time":"20')
        before = {file: file.read_bytes() for file in folder.glob("*")}
        with sidecar(command, tmp_path / "second") as second:
            with Connection(second.address) as connection:
                ask(connection, second.address, "again")
            assert second.program.stop() == 0
            said = second.program.err.read_text()
            assert last.name in said and said.count("was cut off") == 1, said
        assert {file: file.read_bytes() for file in before} == before, "what another run wrote stays as it is"
        after = lines(folder)
        assert after[:-1] == found
        assert (after[-1]["request_id"], after[-1]["seq"]) == ("again", 1)
        assert after[-1]["run"] != found[0]["run"]

        # The bill of docs/cost.md, as it stands there; a line is taken out of the middle.
        text = (programs.ROOT / "docs/cost.md").read_text()
        script = text.split("<<'END'\n")[1].split("\nEND\n")[0]
        month = found[0]["time"][:7]
        first_file = sorted(folder.glob("*"))[0]
        first_file.write_bytes(b"".join(line for n, line in enumerate(first_file.open("rb")) if n != 3))
        done = subprocess.run([sys.executable, "-", str(folder), month], input=script, capture_output=True, text=True)
        lost = f"missing of run {found[0]['run']} 1 lines\n"
        assert (done.returncode, done.stderr) == (0, lost)
        count = len(after) - 1
        assert done.stdout == f"anonymous {count * Decimal('0.0000069')} USD {count * 9} tokens\n"


def test_a_full_disk_loses_nothing_while_lines_can_wait_and_tells_what_it_loses(tmp_path):
    """A small disk in a mount namespace of the sidecar's own, looked at by way of its /proc."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with programs.simulated(tmp_path, "--ttft", "0s", "--tps", "0") as upstream:
        command = configured(tmp_path, upstream, folder / "usage", "1MB")
        unshare = "-m" if os.getuid() == 0 else "-Urm"
        mount = f'mount -t tmpfs -o size=512k none "{folder}" && exec "$@"'
        with sidecar(["unshare", unshare, "sh", "-c", mount, "sh", *command], tmp_path) as running:
            seen = Path(f"/proc/{running.program.process.pid}/root/{folder}")
            usage, filler = seen / "usage", seen / "filler"

            def some(first: int, last: int) -> None:
                with Connection(running.address) as connection:
                    for number in range(first, last):
                        ask(connection, running.address, str(number))

            def fill() -> None:
                with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

            def lost() -> float:
                return Scraper(running.metrics_url).scrape().sum("records_dropped_total", stage="usage_ledger")

            some(0, 20)
            running.program.wait_until(lambda: len(lines(usage)) == 20, 10, "twenty lines")
            fill()
            some(20, 120)
            running.program.wait_for("could not write the usage ledger")
            some(120, 140)
            assert len(lines(usage)) < 60 and lost() == 0
            filler.unlink()
            running.program.wait_for("usage ledger is written again")
            running.program.wait_until(lambda: len(lines(usage)) == 140, 10, "all lines")
            found = lines(usage)
            of_one_run(found)
            assert [line["request_id"] for line in found] == [str(number) for number in range(140)]
            assert all(file.read_bytes().endswith(b"\n") for file in usage.glob("*"))
            fill()
            some(140, 240)
            usage_files = os.open(usage, os.O_RDONLY)  # the namespace ends with its process, not what is open
            assert running.program.stop() == 0
            said = running.program.err.read_text()
            assert said.count("could not write the usage ledger") == 2, "once each time"
            assert "the usage ledger lacks lines" in said
            written = lines(Path(f"/proc/self/fd/{usage_files}"))
            os.close(usage_files)
            of_one_run(written)
            missing = 240 - len(written)
            assert missing > 0 and f"lines={missing}" in said, (missing, said)
