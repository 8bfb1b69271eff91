"""promtool is content with the rules: with those that are shipped, in every case of theirs, and with any objective's."""

import re
import subprocess
from pathlib import Path

import programs
import pytest
import yaml

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
