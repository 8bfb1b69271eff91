"""Prometheus understands every query of the runbooks: promtool reads each as the expression of a rule."""

import json
import re
import subprocess

import programs


def test_prometheus_understands_every_query(tmp_path):
    pages = sorted((programs.ROOT / "docs/runbooks").glob("Streamgauge*.md"))
    queries = [query for page in pages for query in queries_of(page.read_text())]
    assert len(queries) >= 3 * len(pages) > 60
    rules = [{"record": f"runbook:{place}", "expr": query} for place, query in enumerate(queries)]
    assert check(tmp_path, rules) == (0, f"SUCCESS: {len(rules)} rules found")

    wrong = [{"record": "runbook:wrong", "expr": "sum by (le (rate(up[5m]))"}]
    assert check(tmp_path, wrong)[0] != 0


def queries_of(page: str) -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    # In a sentence an expression stands in backticks: what calls a function is meant to be pasted.
    inline = re.findall(r"`((?:sum|max|min|topk|histogram_quantile)\b[^`]*\([^`]*streamgauge_[^`]*)`", page)
    return blocks + inline


def check(folder, rules: list[dict]) -> tuple[int, str]:
    path = folder / "rules.yaml"  # JSON is YAML too
    path.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}))
    command = [programs.installed("promtool", "prometheus"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.strip().splitlines()[-1].strip() if done.returncode == 0 else done.stderr
