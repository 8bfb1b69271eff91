"""promtool is content with the rules: with those that are shipped, in every case of theirs, and with any objective's. And a
Prometheus pages while a sidecar's requests are late, and no longer."""

import re
import subprocess
import threading
import time
from pathlib import Path

import programs
import pytest
import yaml
from test_prometheus import api, traffic
from upstreams import event, scripted

FOLDER = programs.ROOT / "deploy/prometheus"


def promtool(*words: str | Path) -> str:
    command = [programs.installed("promtool", "prometheus"), *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


def generated(config: str, folder: Path, *words: str) -> Path:
    (folder / "config.yaml").write_text(config)
    command = [programs.streamgauge(), "rules", "--config", str(folder / "config.yaml"), *words]
    rules = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (folder / "rules.yaml").write_text(rules)
    return folder / "rules.yaml"


def test_what_is_shipped_is_right(tmp_path):
    example = (programs.ROOT / "examples/three-classes.yaml").read_text()
    assert generated(example, tmp_path).read_text() == (FOLDER / "rules.yaml").read_text()
    assert "SUCCESS" in promtool("check", "rules", FOLDER / "rules.yaml")
    assert "SUCCESS" in promtool("check", "config", FOLDER / "prometheus.yaml")


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("tests/*.yaml")))
def test_every_alert_fires_is_silent_and_ends(file):
    assert "SUCCESS" in promtool("test", "rules", FOLDER / "tests" / file)


def test_every_text_can_be_written(tmp_path):
    """Of each alert, in the first case in which it fires: promtool shows the texts when none is expected."""
    missing = set(re.findall(r"alert: (\w+)", (FOLDER / "rules.yaml").read_text()))
    for file in sorted(FOLDER.glob("tests/*.yaml")):
        cases = yaml.safe_load(file.read_text())
        cases["rule_files"] = [str(FOLDER / "rules.yaml")]
        wanted = []
        for case in cases["tests"]:
            checks = []
            for check in case.pop("promql_expr_test", []):
                fired = {re.search(r'alertname="(\w+)"', sample["labels"])[1] for sample in check["exp_samples"]}
                checks += [{"eval_time": check["eval_time"], "alertname": name, "exp_alerts": []} for name in fired & missing]
                missing -= fired
            if checks:
                wanted.append({**case, "alert_rule_test": checks})
        (tmp_path / "cases.yaml").write_text(yaml.safe_dump({**cases, "tests": wanted}))
        command = [programs.installed("promtool", "prometheus"), "test", "rules", str(tmp_path / "cases.yaml")]
        shown = subprocess.run(command, capture_output=True, text=True)
        shown = shown.stdout + shown.stderr
        assert all(check["alertname"] + ".md" in shown for case in wanted for check in case["alert_rule_test"]), shown
        assert "error expanding" not in shown and "<no value>" not in shown, shown
    assert not missing


def test_a_rule_that_is_wrong_is_found(tmp_path):
    """The cases can fail: no page of theirs stays one when its threshold cannot be reached."""
    rules = (FOLDER / "rules.yaml").read_text()
    assert "_seconds) > 60" in rules
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules.yaml").write_text(rules.replace("_seconds) > 60", "_seconds) > 6000"))
    (tmp_path / "tests/requests.yaml").write_text((FOLDER / "tests/requests.yaml").read_text())
    with pytest.raises(AssertionError, match="StreamgaugeHung"):
        promtool("test", "rules", tmp_path / "tests/requests.yaml")


@pytest.mark.parametrize("rehearsal", ["1", "60"])
def test_any_objective_has_rules_that_can_be_loaded(tmp_path, rehearsal):
    objectives = ["0.0001%", "10%", "50%", "90%", "93%", "99.95%", "99.9999%"]
    slos = [f"{{name: '{o} \"\\{{{{x', objective: {o}, window: {d}d, ttft: 1s, tpot: 1s}}" for o in objectives for d in (1, 7, 30)]
    slos = [slo.replace("name: '", f"name: '{number} ") for number, slo in enumerate(slos)]
    config = f"upstream: http://127.0.0.1:1\nslos: [{', '.join(slos)}]\n"
    assert "SUCCESS" in promtool("check", "rules", generated(config, tmp_path, "--rehearsal", rehearsal))


def test_a_fire_drill(tmp_path):
    """An hour in a minute: every request is late, somebody is paged; they are in time again, and it is over."""
    slow = threading.Event()

    def script(client):
        client.head()
        time.sleep(0.15 if slow.is_set() else 0.01)
        client.chunk(event("one"))
        client.finish()

    def firing() -> set[tuple[str, str]]:
        alerts = api(server, "query", query='ALERTS{alertstate="firing",alertname=~"StreamgaugeSLO.*"}')
        return {(alert["metric"]["alertname"], alert["metric"].get("scope", "")) for alert in alerts["result"]}

    def within(seconds: float, what: str, is_so) -> None:
        end = time.monotonic() + seconds
        while not is_so(fired := firing()):
            assert time.monotonic() < end, f"{what}: {fired}"
            time.sleep(0.2)

    page = {("StreamgaugeSLOBurnFast", "tenant"), ("StreamgaugeSLOBurnFast", "all")}
    with scripted(script) as ((host, port), _):
        config = (
            f"upstream: http://{host}:{port}\nmodels: [{{name: scripted}}]\n"
            "slos: [{name: chat, objective: 99%, ttft: 100ms}]\nrequest_log: {path: none}\n"
        )
        rules = generated(config, tmp_path, "--rehearsal", "60")
        with (
            programs.sidecar(None, tmp_path, "--config", str(tmp_path / "config.yaml")) as sidecar,
            programs.prometheus(sidecar.metrics_url, tmp_path / "prometheus", rules) as server,
            traffic(sidecar.address),
        ):
            time.sleep(10)  # Prometheus finds its target after five
            assert firing() == set()
            slow.set()
            within(60, "nobody is paged", lambda fired: page <= fired)
            slow.clear()
            within(60, "the page does not end", lambda fired: not page & fired)
