"""The process itself: signals, its outputs, what it says when it cannot begin."""

import os
import signal
import subprocess
import time

import programs
from upstreams import event, scripted
from wire import Connection, request


def answers(client):
    client.head()
    client.chunk(event("one"))
    client.finish()


def test_ends_on_sigterm_though_it_comes_during_a_reload(tmp_path):
    """An https upstream makes a reload read the system's certificates, which takes some milliseconds."""
    config = tmp_path / "config.yaml"
    config.write_text("upstream: https://localhost:9\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndrain_timeout: 1s\n")
    for pause in (0, 0.001, 0.003, 0.01):
        with programs.running([programs.streamgauge(), "run", "--config", str(config)], tmp_path, "run") as program:
            program.wait_for("base URL")
            program.process.send_signal(signal.SIGHUP)
            time.sleep(pause)
            program.process.send_signal(signal.SIGTERM)
            assert program.process.wait(10) == 0, f"{pause} s after SIGHUP"


def test_ends_though_nobody_reads_its_request_log(tmp_path):
    """Standard output is a pipe that is full: lines are lost, the process is not."""
    read, write = os.pipe()
    with scripted(answers) as (upstream, _):
        arguments = [programs.streamgauge(), "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        arguments += ["--upstream", f"http://{upstream[0]}:{upstream[1]}"]
        said = tmp_path / "err"
        with open(said, "wb") as err:
            process = subprocess.Popen(arguments, stdout=write, stderr=err, preexec_fn=programs.end_with_parent)
        try:
            while "base URL to " not in said.read_text():
                assert process.poll() is None, said.read_text()
                time.sleep(0.02)
            address = programs.address_of(said.read_text().split("base URL to ")[1].split(";")[0])
            ask = request("GET", "/v1/models?" + "x" * 500, address, None)
            with Connection(address) as connection:
                for _ in range(300):
                    connection.exchange(ask)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert "request log's reader is stuck" in said.read_text()
        finally:
            process.kill()
            os.close(read)
            os.close(write)


def test_says_what_is_wrong_and_what_would_be_right(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("upstream: http://127.0.0.1:1\ntenants:\n  limit: many\n")
    for arguments, code, said in [
        (["check", str(config)], 1, f"{config}:3:10: tenants.limit: `many` is no number"),
        (["run", "--config", str(config)], 1, f"{config}:3:10: tenants.limit: `many` is no number"),
        (["run"], 1, "no upstream is given"),
        (["run", "--upstream", "ftp://x"], 2, "expected http://HOST:PORT"),
        (["run", "--upstream", "http://127.0.0.1:1", "--listen", "8080"], 2, "write it like 0.0.0.0:8080"),
        (["stop"], 2, "unrecognized subcommand"),
    ]:
        done = subprocess.run([programs.streamgauge(), *arguments], capture_output=True, text=True, timeout=10)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert said in done.stderr, (arguments, done.stderr)
