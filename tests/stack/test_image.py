"""The image as it is shipped, run as it is meant to be; and the Deployment's Pod, with a simulated server in vLLM's place."""

import copy
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import exposition
import programs
import pytest
import yaml

IMAGE = "localhost/streamgauge:test"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SHUT_IN = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]
LITTLE = ["--memory=64m", "--memory-swap=64m"]
NOBODY = 65532
ASK = {"model": "sim", "stream": True, "max_tokens": 20, "stream_options": {"include_usage": True},
       "messages": [{"role": "user", "content": "hi"}]}  # fmt: skip


@pytest.fixture(scope="session")
def image(engine, tmp_path_factory) -> str:
    """Built of the binary under test: the Dockerfile's last stage, without compiling again."""
    binary = Path(programs.streamgauge())
    with open(binary, "rb") as start:
        assert b"/ld-linux" not in start.read(4096), f"{binary} is not static: `scripts/test` builds one that is"
    assert CERTIFICATES.exists(), f"{CERTIFICATES} is missing: apt-get install ca-certificates"
    folder = tmp_path_factory.mktemp("built")
    shutil.copy(binary, folder / "streamgauge")
    shutil.copy(CERTIFICATES, folder)
    # Docker's format: OCI's has no place for a HEALTHCHECK.
    options = ["--format=docker", "--network=none", "--pull-never", f"--build-context=build={folder}", f"--tag={IMAGE}"]
    engine.run("buildah", "bud", *options, programs.ROOT)
    return IMAGE


def inspect(engine, name: str) -> dict:
    return json.loads(engine.podman("inspect", name))[0]


INSIDE = """
import json, sys, time, urllib.request
url, body, until = sys.argv[1], sys.argv[2].encode() or None, time.monotonic() + float(sys.argv[3])
while True:
    try:
        print(urllib.request.urlopen(urllib.request.Request(url, body, {"x-tenant-id": "web"}), timeout=20).read().decode())
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error}: {error.read()}")
    except OSError as error:
        if time.monotonic() > until:
            sys.exit(f"{url}: {error}")
        time.sleep(0.1)
"""


def ask(pid: int, url: str, body: dict | None, patience: float) -> subprocess.CompletedProcess:
    """Asks in a process's network."""
    enter = [programs.installed("nsenter", "util-linux"), "--target", str(pid), "--net", sys.executable, "-c", INSIDE]
    words = [url, json.dumps(body) if body else "", str(patience)]
    return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=60)


def inside(engine, container: str, url: str, body: dict | None = None) -> str:
    """What is answered in a container's network, once somebody listens."""
    asked = ask(inspect(engine, container)["State"]["Pid"], url, body, patience=20)
    logs = engine.podman("logs", container, fails=True) if asked.returncode else ""
    assert asked.returncode == 0, f"{asked.stderr[-500:]} {logs[-2000:]}"
    return asked.stdout


def counted(engine, container: str, want: float) -> exposition.Scrape:
    """The sidecar's page, once it tells of so many tokens."""
    deadline = time.monotonic() + 20
    while True:
        page = exposition.Scrape(inside(engine, container, "http://127.0.0.1:9464/metrics"))
        if page.sum("output_tokens_total") >= want:
            return page
        assert time.monotonic() < deadline, page.sum("output_tokens_total")
        time.sleep(0.2)


def test_the_image_is_small_and_says_how_it_is_run(engine, image):
    found = inspect(engine, image)
    config = found["Config"]
    assert config["User"] == f"{NOBODY}:{NOBODY}"
    assert config["Entrypoint"] == ["/streamgauge"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9464/tcp"}
    assert found["Healthcheck"]["Test"] == ["CMD", "/streamgauge", "health"]
    assert found["Size"] < 40_000_000, "what grew so?"
    root = Path(engine.podman("image", "mount", image))
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    engine.podman("image", "umount", image)
    assert files == {"streamgauge", "etc/ssl/certs/ca-certificates.crt", "licenses/streamgauge"}


def test_it_answers_read_only_as_nobody_in_64_mb(engine, image):
    """And finds a name though nothing is there that a libc could load."""
    run = ["run", "--detach", "--pull=never", *SHUT_IN, *LITTLE]
    engine.podman(*run, "--network=none", "--name=sidecar", image, "run", "--upstream=http://localhost:8000")
    server = ["--listen=127.0.0.1:8000", "--ttft=20ms", "--tps=400"]
    engine.podman(*run, "--network=container:sidecar", "--name=server", image, "simulate", *server)
    streams = 20
    for _ in range(streams):
        answer = inside(engine, "sidecar", "http://127.0.0.1:8080/v1/chat/completions", ASK)
        assert answer.rstrip().endswith("data: [DONE]"), answer
    page = counted(engine, "sidecar", streams * ASK["max_tokens"])
    assert page.sum("output_tokens_total") == streams * ASK["max_tokens"]
    engine.podman("healthcheck", "run", "sidecar")
    status = Path(f"/proc/{inspect(engine, 'sidecar')['State']['Pid']}/status").read_text()
    assert f"Uid:\t{NOBODY}\t{NOBODY}" in status and "CapEff:\t0000000000000000" in status
    engine.podman("stop", "--time=20", "sidecar", "server")
    states = [inspect(engine, name)["State"] for name in ("sidecar", "server")]
    assert [(state["ExitCode"], state["OOMKilled"]) for state in states] == [(0, False)] * 2
    engine.podman("rm", "server")
    engine.podman("rm", "sidecar")


def stopping(engine, container: str) -> subprocess.Popen:
    command = [programs.installed("podman", "podman"), "stop", "--time=60", container]
    return subprocess.Popen(command, env=engine.environment, stdout=subprocess.DEVNULL)


def shipped() -> dict:
    """The template of the Deployment's Pods."""
    folder = programs.ROOT / "deploy/kubernetes"
    return yaml.safe_load((folder / "deployment.yaml").read_text())["spec"]["template"]


def playable(template: dict, image: str) -> dict:
    """The Pod for an engine without GPUs, native sidecars and probes from outside: all else as it is shipped."""
    template = copy.deepcopy(template)
    spec = template["spec"]
    sidecar, server = spec.pop("initContainers") + spec["containers"]
    sidecar["image"] = image
    stand_in = {
        "name": server["name"],
        "image": image,
        "args": ["simulate", "--listen=127.0.0.1:8000", "--model=meta-llama/Llama-3.1-8B-Instruct", "--tps=400"],
        "securityContext": server["securityContext"],
    }
    del sidecar["restartPolicy"], sidecar["ports"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del sidecar[probe]
    spec["containers"] = [sidecar, stand_in]
    spec["volumes"] = [volume for volume in spec["volumes"] if "configMap" in volume]
    metadata = {"name": "shipped", "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_the_pod_of_the_deployment_is_measured(engine, image, kubectl, tmp_path):
    """As a real Pod of two containers that share a loopback: the sidecar with its ConfigMap, probed, asked and scraped."""
    built = subprocess.run([kubectl, "kustomize", programs.ROOT / "deploy/kubernetes"], capture_output=True, check=True).stdout
    config = next(each for each in yaml.safe_load_all(built) if each["kind"] == "ConfigMap")
    template = shipped()
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(playable(template, image)))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    engine.podman("kube", "play", "--network=none", f"--configmap={tmp_path}/config.yaml", tmp_path / "pod.yaml")
    sidecar, server = "shipped-streamgauge", "shipped-vllm"

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = template["spec"]["initContainers"][0][probe]["httpGet"]
        inside(engine, sidecar, f"http://127.0.0.1:{get['port']}{get['path']}")
    body = {**ASK, "model": "meta-llama/Llama-3.1-8B-Instruct"}
    for _ in range(5):
        assert "[DONE]" in inside(engine, sidecar, "http://127.0.0.1:8080/v1/chat/completions", body)
    page = counted(engine, sidecar, 100)
    tokens = {"tenant": "web", "model": "llama-3.1-8b", "upstream": "vllm"}
    assert page.sum("output_tokens_total", **tokens) == 100, "the ConfigMap's names"
    assert page.sum("slo_requests_total", slo="chat", tenant="web") == 5
    assert inspect(engine, sidecar)["HostConfig"]["ReadonlyRootfs"]
    assert f"Uid:\t{NOBODY}\t" in Path(f"/proc/{inspect(engine, sidecar)['State']['Pid']}/status").read_text()

    # As a native sidecar ends: the server first, then the sidecar, which waits for one more scrape.
    engine.podman("stop", "--time=10", server)
    pid, last = inspect(engine, sidecar)["State"]["Pid"], page
    with stopping(engine, sidecar) as stop:
        while stop.poll() is None:
            scraped = ask(pid, "http://127.0.0.1:9464/metrics", None, patience=0)
            last = exposition.Scrape(scraped.stdout) if scraped.returncode == 0 else last
    assert (stop.returncode, inspect(engine, sidecar)["State"]["ExitCode"]) == (0, 0)
    assert last.sum("output_tokens_total") == 100 and last.settled
    engine.podman("kube", "down", tmp_path / "pod.yaml")
