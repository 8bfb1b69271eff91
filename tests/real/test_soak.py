"""The soak, as part of the tests; by hand it is `tests/real/soak --requests N`."""

import subprocess
import sys

import programs


def test_a_hundred_thousand_requests():
    run = subprocess.run([sys.executable, str(programs.HERE / "soak")], text=True, capture_output=True, timeout=900)
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
