"""Post-mortems of incidents that a script made: a queue, long prompts, slow decoding, upstream errors, and a quiet time.

Five sidecars before five simulated servers, side by side, and one Prometheus that scrapes them each second. What is true
is taken from the request log: when each request was sent, and when its verdict fell.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import programs
import pytest

BEFORE, DURING, AFTER = 40, 20, 30  # seconds of usual traffic, of the incident, and behind it
SCRAPE = 1.0
LOOK = 0.3  # a verdict is told 260 ms after its time at the latest
BUSY = 1.0  # what a machine with other things to do may add

CONFIG = """
upstreams: [{{name: "{slo}-server", url: "http://{host}:{port}"}}]
tenants: {{known: [web, batch, docs, ide, agents]}}
models:
  - {{name: llama-8b, price: {{currency: USD, input: 0.15, output: 0.15}}}}
  - {{name: llama-70b, price: {{currency: USD, input: 0.90, output: 0.90}}}}
slos:
  - {{name: {slo}, objective: 99%, {asks}}}
request_log: {{path: {log}}}
"""


@dataclass
class Load:
    """A tenant's requests: so many a second, each with these headers and so long a prompt."""

    tenant: str
    model: str
    rate: float
    headers: dict[str, str] = field(default_factory=dict)
    prompt: int = 60  # tokens


@dataclass
class Story:
    """What is promised, how the server is, and who sends what before the incident and in it."""

    name: str
    asks: str
    server: list[str]
    usual: list[Load]
    incident: list[Load]  # instead of the usual
    tenant: str
    model: str
    cause: str
    late: Callable[[dict], float]  # seconds from a request's beginning to its bad verdict


SPEED = ["--ttft", "60ms", "--tps", "100", "--tokens", "20", "--usage", "on"]
BATCH = Load("batch", "llama-70b", 1)
STORIES = [
    # Seven and a half a second are what two slots do.
    Story(
        "queue", "ttft: 750ms", [*SPEED, "--slots", "2"],
        [Load("web", "llama-8b", 2), BATCH], [Load("web", "llama-8b", 12), BATCH],
        "web", "llama-8b", "queue", lambda _: 0.75,
    ),
    Story(
        "prompts", "ttft: 750ms", [*SPEED, "--prefill-tps", "20000"],
        [Load("docs", "llama-70b", 3), Load("web", "llama-8b", 3)],
        [Load("docs", "llama-70b", 3, prompt=30_000), Load("web", "llama-8b", 3)],
        "docs", "llama-70b", "long prompts", lambda _: 0.75,
    ),
    Story(
        "decode", "tpot: 30ms", SPEED,
        [Load("ide", "llama-8b", 4), BATCH], [Load("ide", "llama-8b", 4, {"x-sim-tps": "12"}), BATCH],
        "ide", "llama-8b", "slow decode", lambda line: line["duration_seconds"],
    ),
    Story(
        "errors", "success: true", SPEED,
        [Load("agents", "llama-70b", 4), BATCH], [Load("agents", "llama-70b", 4, {"x-sim-fault": "status=503"}), BATCH],
        "agents", "llama-70b", "upstream errors", lambda line: line["duration_seconds"],
    ),
    Story("quiet", "ttft: 750ms", SPEED, [Load("web", "llama-8b", 4), BATCH], [], "", "", "", lambda _: 0),
]  # fmt: skip


@dataclass
class Scene:
    """A story that was played."""

    story: Story
    sidecar: programs.Sidecar
    log_file: Path
    server: str = ""
    began: float = 0
    hurt: float = 0
    healed: float = 0
    ended: float = 0

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def verdicts(self) -> list[float]:
        """When bad verdicts fell, of the incident: from its first request on, without a pause of five seconds."""
        found: list[float] = []
        bad = [line for line in self.log() if "bad" in line.get("slo", {}).values()]
        for line in sorted(bad, key=sent_at):
            sent = sent_at(line)
            at = sent + self.story.late(line)
            if sent >= self.hurt - 0.05 and (not found or at - found[-1] < 5):
                found.append(at)
        return found

    def postmortem(self, folder: Path, *words: str) -> tuple[str, str]:
        """The report as Markdown, and what was said on standard error; the page lies beside it."""
        outs = ("--out", str(folder / f"{self.story.name}.md"), "--out", str(folder / f"{self.story.name}.html"))
        span = ("--from", f"{self.began:.3f}", "--to", f"{self.ended:.3f}")
        command = [programs.streamgauge(), "postmortem", "--prometheus", self.server, "--job", self.story.name]
        made = subprocess.run([*command, *span, *outs, *words], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return (folder / f"{self.story.name}.md").read_text(), made.stderr


def sent_at(line: dict) -> float:
    return datetime.fromisoformat(line["time"]).timestamp() - line["duration_seconds"]


def ask(address: tuple[str, int], load: Load) -> None:
    connection = http.client.HTTPConnection(*address, timeout=60)
    prompt = "word" * load.prompt  # four bytes are a token
    body = {"model": load.model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    own = {"x-tenant-id": load.tenant, "content-type": "application/json"}
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), own | load.headers)
        connection.getresponse().read()
    connection.close()


def send(address: tuple[str, int], loads: list[Load], seconds: float) -> None:
    """Each request at its time, in a thread of its own, whatever becomes of the others."""
    begin = time.monotonic()
    times = sorted((n / load.rate, place) for place, load in enumerate(loads) for n in range(int(load.rate * seconds)))
    for at, place in times:
        time.sleep(max(0.0, begin + at - time.monotonic()))
        threading.Thread(target=ask, args=(address, loads[place]), daemon=True).start()
    time.sleep(max(0.0, begin + seconds - time.monotonic()))


def play(scene: Scene) -> None:
    story, address = scene.story, scene.sidecar.address
    scene.began = time.time()
    send(address, story.usual, BEFORE)
    scene.hurt = time.time()
    send(address, story.incident or story.usual, DURING)
    scene.healed = time.time()
    send(address, story.usual, AFTER)
    time.sleep(3 * SCRAPE)
    scene.ended = time.time()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict[str, Scene]:
    folder = tmp_path_factory.mktemp("postmortem")
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        found = []
        for story in STORIES:
            own = folder / story.name
            host, port = start(programs.simulated(own, *story.server))
            config, log = own / "config.yaml", own / "requests.jsonl"
            config.write_text(CONFIG.format(host=host, port=port, slo=story.name, asks=story.asks, log=log))
            found.append(Scene(story, start(programs.sidecar(None, own, "--config", str(config))), log))
        jobs = {scene.story.name: scene.sidecar.metrics_url for scene in found}
        server = start(programs.prometheus(jobs, folder, rules=rules(folder)))
        time.sleep(3 * SCRAPE)
        players = [threading.Thread(target=play, args=(scene,)) for scene in found]
        for scene, player in zip(found, players, strict=True):
            scene.server = server
            player.start()
        for player in players:
            player.join()
        yield {scene.story.name: scene for scene in found}


def rules(folder: Path) -> Path:
    """A fire drill, in which an hour is a minute, with the objectives of all stories."""
    slos = "".join(f"  - {{name: {story.name}, objective: 99%, {story.asks}}}\n" for story in STORIES)
    (folder / "rules-of.yaml").write_text(f"upstream: http://127.0.0.1:1\nslos:\n{slos}")
    command = [programs.streamgauge(), "rules", "--config", str(folder / "rules-of.yaml"), "--rehearsal", "60", "--job", "queue"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (folder / "rules.yaml").write_text(made)
    return folder / "rules.yaml"


def bounds(report: str, what: str) -> tuple[float, float]:
    row = next(line for line in report.splitlines() if line.startswith(f"| {what} |"))
    cells = [cell.strip() for cell in row.split("|")]
    return tuple(datetime.fromisoformat(f"{cell}+00:00").timestamp() for cell in cells[2:4])


@pytest.mark.parametrize("name", [story.name for story in STORIES if story.cause])
def test_a_scripted_incident_is_told_as_it_was(scenes, tmp_path, name):
    scene = scenes[name]
    story = scene.story
    report, said = scene.postmortem(tmp_path, "--log", str(scene.log_file))
    print(said)
    assert f"cause class: {story.cause}" in said, report
    assert report.splitlines()[0] == f"# Objective {name} was missed: {story.tenant} on {story.model}" + (
        " and 1 more" if name == "queue" else ""
    ), "the others wait in the same queue"

    verdicts = scene.verdicts()
    begin, end = bounds(report, "begin"), bounds(report, "end")
    print(f"begin: {verdicts[0]:.2f} in {begin}; end: {verdicts[-1]:.2f} in {end}; incident {scene.hurt:.2f} to {scene.healed:.2f}")
    for truth, (after, at) in ((verdicts[0], begin), (verdicts[-1], end)):
        assert at - after <= 2 * SCRAPE + BUSY, "one scrape, if none failed"
        assert after - LOOK - BUSY <= truth <= at + BUSY

    # The page that an on-call engineer got, for this and for nothing else that was promised.
    alerts = re.findall(r"^\| \**StreamgaugeSLOBurnFast\** \|.*slo (\w+)", report, re.M)
    assert set(alerts) == {name}, alerts
    assert set(re.findall(r"upstream (\w+)-server", report)) <= {name}, report

    # Who was hit, and how often: the counters are exact, and so is what is read of them.
    first = next(line for line in report.splitlines() if line.startswith(f"| **{story.tenant}** |"))
    cells = [cell.strip(" *") for cell in first.split("|")]
    assert cells[2] == story.model
    bad = sum(
        "bad" in line.get("slo", {}).values()
        for line in scene.log()
        if line["tenant"] == story.tenant and line["model"] == story.model
        and begin[0] - BUSY <= sent_at(line) + story.late(line) <= end[1] + BUSY
    )  # fmt: skip
    assert abs(int(cells[5].replace(",", "")) - bad) <= 2, (cells, bad)
    assert "USD" in cells[9] or name == "errors", cells

    # A counter that is new counts from 0.
    if name == "errors":
        assert f"- for: upstream_failed: {cells[5]}\n" in report

    # The slowest requests, by their ids.
    slow = [line["request_id"] for line in scene.log() if line["tenant"] == story.tenant and sent_at(line) >= scene.hurt - 0.1]
    assert any(request_id in report for request_id in slow)


def test_tokens_and_money_of_the_incident_are_those_of_the_log(scenes, tmp_path):
    """Of streams that begin and end in it, for counters grow while streams run."""
    scene = scenes["prompts"]
    report, _ = scene.postmortem(tmp_path)
    begin, end = bounds(report, "begin"), bounds(report, "end")
    row = next(line for line in report.splitlines() if line.startswith("| **docs** |"))
    cells = [cell.strip(" *") for cell in row.split("|")]
    ended = [
        line for line in scene.log()
        if line["tenant"] == "docs" and begin[0] < sent_at(line) + line["duration_seconds"] <= end[1]
    ]  # fmt: skip
    tokens = sum(line["input_tokens"] for line in ended)
    each = max(line["input_tokens"] for line in ended)
    assert abs(int(cells[7].replace(",", "")) - tokens) <= 4 * each, "those that run at either end are counted in part"
    money = sum(float(line["cost"]) for line in ended)
    assert float(cells[9].split()[0]) == pytest.approx(money, rel=0.1)


def test_a_quiet_time_says_so(scenes, tmp_path):
    report, said = scenes["quiet"].postmortem(tmp_path)
    assert report.startswith("# Nothing was breached"), report
    assert "nothing was breached" in said


def test_an_outside_time_and_a_wrong_job_are_told(scenes):
    scene = scenes["quiet"]
    for words, part in (
        (("--job", "nobody", "--from", "-1m"), 'no streamgauge_build_info of the job "nobody" of that time'),
        (("--from", "2020-01-01T00:00:00Z", "--to", "2020-01-01T01:00:00Z"), "no streamgauge_build_info of that time"),
    ):
        command = [programs.streamgauge(), "postmortem", "--prometheus", scene.server, *words]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 1 and part in made.stderr, made.stderr
        assert made.stdout == ""


FRAME = """<!doctype html><body style="margin:0"><iframe id=f src="{page}" style="border:0" width={width} height=1000></iframe>
<script>f.onload = () => {{ const page = f.contentDocument.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(one => !one.closest(".scroll") && one.getBoundingClientRect().right > {width} + 1);
  document.title = page.scrollWidth + " " + wide.map(one => one.tagName + "." + one.getAttribute("class")).join(); }};</script>"""


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_a_screen(scenes, tmp_path, width):
    """In a real browser, in a frame of that width: Chromium's own window cannot be as narrow as a telephone."""
    chromium = programs.installed("chromium", "chromium")
    scenes["queue"].postmortem(tmp_path, "--log", str(scenes["queue"].log_file))
    (tmp_path / "frame.html").write_text(FRAME.format(page="queue.html", width=width))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        quiet = ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}/profile"]
        url = f"http://127.0.0.1:{server.server_address[1]}/frame.html"
        command = [chromium, *flags, *quiet, "--virtual-time-budget=10000", "--dump-dom", url]
        made = subprocess.run(command, capture_output=True, text=True, timeout=120)
        server.shutdown()
    title = re.search(r"<title>(\d+) ([^<]*)</title>", made.stdout)
    assert title, made.stdout[:500] + made.stderr[-2000:]
    assert int(title[1]) <= width and not title[2], f"wider than {width}: {title[0]}"
