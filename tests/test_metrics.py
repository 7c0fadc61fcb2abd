"""What Prometheus is told: every number true, in a form that it reads, and no more of them than it can bear."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kiln import Kiln, PromptHands, good
from voicekiln import __version__
from voicekiln.errors import REFUSALS, BadNumbers
from voicekiln.folders.voices import State
from voicekiln.job import STAGES, Ending, FileStamp, Lost, Refused
from voicekiln.metrics import BUCKETS_S, Meter
from voicekiln.settings import Metrics, Sweep, Worker
from voicekiln.supervisor.exporting import Exporter, Gauges
from voicekiln.worker.wire import Looked, Request

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt install prometheus)")
Sample = tuple[str, frozenset[tuple[str, str]]]
GAUGES = Gauges(
    active=True,
    troubles=0,
    away=frozenset(),
    voices={str(state): 0 for state in State},
    workers=1,
    busy=0,
    waiting_since=None,
    last_scan=1.0,
    free={"outbox": 1, "state": 1},
)


def read(text: bytes) -> dict[Sample, float]:
    """Every sample, as the library of Prometheus understands the text."""
    families = text_string_to_metric_families(text.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(name: str, **labels: str) -> Sample:
    return f"voicekiln_{name}", frozenset(labels.items())


class Metered(Kiln):
    """A daemon with metrics in a file, which no thread but the test's writes."""

    def start(self) -> None:
        super().start()
        self.exporter = Exporter(self.service.common, self.service.gauges, Meter(), self.writers())
        self.service.attendants.append(self.exporter)

    def writers(self) -> PromptHands:
        return PromptHands()

    def metrics(self) -> dict[Sample, float]:
        assert self.settings.metrics.textfile is not None
        return read(self.settings.metrics.textfile.read_bytes())

    def told(self, name: str, **labels: str) -> float:
        return self.metrics()[sample(name, **labels)]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Metered]]:
    built: list[Kiln] = []

    def make(answer: Callable[[Request], Ending | Looked | None] = good, **changes: Any) -> Metered:
        metrics = Metrics(textfile=tmp_path / "voicekiln.prom")
        built.append(Metered(tmp_path, answer, **({"metrics": metrics} | changes)))
        return built[-1]  # type: ignore[return-value]  # of that kind

    yield make
    for kiln in built:
        kiln.close()


def refuse(request: Request) -> Ending:
    del request
    return Refused(BadNumbers(count=3, tensor="emb_g.weight"))


@pytest.mark.requirement(18)
def test_a_conversion_is_counted(build: Callable[..., Metered]) -> None:
    """With its bytes as they lie in the outbox, and its seconds by stage."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.drop("both/b.pth")
    kiln.run(60)
    assert kiln.told("conversions_total", outcome="converted") == 2
    files = list(kiln.outbox.rglob("*.onnx"))
    assert kiln.told("published_files_total") == len(files) == 3
    assert kiln.told("published_bytes_total") == sum(path.stat().st_size for path in files)
    assert kiln.told("conversion_seconds_count") == 2
    lines = kiln.log.of("job.finished")
    assert kiln.told("conversion_seconds_sum") == pytest.approx(sum(sum(line["seconds"].values()) for line in lines))
    for stage in lines[0]["seconds"]:
        assert kiln.told("stage_seconds_count", stage=stage) == 2
    assert kiln.told("voices", state="done") == 2
    assert kiln.told("voices", state="queued") == 0


def test_a_copy_is_not_timed_again(build: Callable[..., Metered]) -> None:
    """The same content under another name took no worker; its times are those of the first."""
    kiln = build()
    content = kiln.drop("a.pth").read_bytes()
    kiln.run()
    kiln.drop("b.pth", content)
    kiln.run(60)
    assert kiln.told("conversions_total", outcome="converted") == 1
    assert kiln.told("conversions_total", outcome="copied") == 1
    assert [line["outcome"] for line in kiln.log.of("job.finished")] == ["converted", "copied"]
    assert kiln.told("conversion_seconds_count") == 1
    assert kiln.told("published_files_total") == 2


def test_a_refusal_is_counted_by_its_code(build: Callable[..., Metered]) -> None:
    """Beside the codes that did not occur."""
    kiln = build(refuse)
    kiln.drop("a.pth")
    kiln.run(60)
    codes = {dict(labels)["code"]: n for (name, labels), n in kiln.metrics().items() if name.endswith("refusals_total")}
    assert codes == dict.fromkeys(REFUSALS, 0) | {"bad-numbers": 1}
    assert kiln.told("conversions_total", outcome="refused") == 1
    assert kiln.told("published_files_total") == 0


def test_every_loss_of_a_worker_is_counted(build: Callable[..., Metered]) -> None:
    """Also those after which the file got another try."""
    kiln = build(lambda _: Lost("it was killed"), worker=Worker(attempts=3))
    kiln.drop("a.pth")
    kiln.run(180)
    assert kiln.told("worker_losses_total") == 3
    assert kiln.told("refusals_total", code="worker-lost") == 1


def test_what_is_swept_is_counted(build: Callable[..., Metered]) -> None:
    """Files and bytes, by what they were."""
    kiln = build(sweep=Sweep(every=60.0, sources=600.0, results=600.0, refusals=600.0, max_share=1.0))
    source = kiln.drop("a.pth")
    size = source.stat().st_size
    kiln.run(60)
    results = sum((kiln.outbox / name).stat().st_size for name in ("a.onnx", "a.json"))
    kiln.skip(1000)
    kiln.run(120)
    assert not source.exists()
    assert kiln.told("swept_files_total", of="sources") == 1
    assert kiln.told("swept_bytes_total", of="sources") == size
    assert kiln.told("swept_files_total", of="results") == 2
    assert kiln.told("swept_bytes_total", of="results") == results
    assert kiln.told("swept_files_total", of="refusals") == 0


def test_what_waits_grows_old(build: Callable[..., Metered]) -> None:
    """The age of the oldest voice is counted since it came, and ends with it; a full outbox does not stop the count."""
    kiln = build(lambda _: None)
    kiln.drop("a.pth")
    kiln.run(30)
    kiln.drop("b.pth")
    kiln.run(90)
    assert 75 <= kiln.told("oldest_waiting_age_seconds") <= 120
    assert kiln.told("voices", state="converting") == 1
    assert kiln.told("workers", state="busy") == 1


def test_a_replaced_voice_waits_since_it_was_replaced(build: Callable[..., Metered]) -> None:
    """That it was first seen a year ago is no age of what waits now."""
    kiln = build(lambda _: None)
    replaced = FileStamp(1, 2, 3, int((kiln.wall - 3600) * 1e9))
    year_ago = kiln.wall - 365 * 86400
    kiln.ledger.sight(PurePosixPath("a.pth"), "default", replaced, year_ago)
    assert kiln.ledger.waiting_since(kiln.wall) == pytest.approx(kiln.wall - 3600, abs=0.01)
    assert kiln.ledger.waiting_since(kiln.wall - 7200) == year_ago  # a server whose clock is ahead is no witness


@pytest.mark.requirement(18)
def test_a_share_that_is_away_is_down(build: Callable[..., Metered]) -> None:
    """It is a trouble, what it said of its room is not repeated, and it is up when it is back."""
    kiln = build()
    kiln.run(60)
    assert kiln.told("share_up", share="outbox") == 1
    assert kiln.told("free_bytes", folder="outbox") > 0
    away = kiln.outbox.rename(kiln.at / "elsewhere")
    kiln.run(60)
    assert (kiln.told("share_up", share="outbox"), kiln.told("share_up", share="inbox")) == (0, 1)
    assert kiln.told("troubles") >= 1
    assert sample("free_bytes", folder="outbox") not in kiln.metrics()
    away.rename(kiln.outbox)
    kiln.run(90)
    assert kiln.told("share_up", share="outbox") == 1
    assert kiln.told("troubles") == 0


def test_times_are_those_of_the_clock(build: Callable[..., Metered]) -> None:
    """Heartbeat and last scan; version and a one."""
    kiln = build()
    kiln.run(60)
    assert kiln.wall - 60 <= kiln.told("heartbeat_timestamp_seconds") <= kiln.wall
    assert kiln.wall - 60 <= kiln.told("last_scan_timestamp_seconds") <= kiln.wall
    assert kiln.told("build_info", version=__version__) == 1
    assert kiln.told("up") == 1
    assert kiln.told("active") == 1


def test_no_name_gets_into_the_metrics(build: Callable[..., Metered]) -> None:
    """However many voices there are, of whatever names, the lines stay the same ones."""
    kiln = build()
    kiln.run(30)
    before = set(kiln.metrics())
    for number in range(40):
        kiln.drop(f'secret{number}/"quote}}{number}\n.pth')
    kiln.run(120)
    assert kiln.told("voices", state="done") == 40
    assert set(kiln.metrics()) == before
    assert b"secret" not in (kiln.at / "voicekiln.prom").read_bytes()


def test_every_label_is_there_from_the_start() -> None:
    """What appears with a one would be no increase to Prometheus."""
    told = read(Meter().text())
    for labels in ({"outcome": "converted"}, {"outcome": "copied"}, {"outcome": "refused"}):
        assert told[sample("conversions_total", **labels)] == 0
    assert {sample("refusals_total", code=code) for code in REFUSALS} <= told.keys()
    assert {sample("stage_seconds_count", stage=stage) for stage in STAGES} <= told.keys()
    assert {sample("swept_files_total", of=of) for of in ("sources", "results", "refusals")} <= told.keys()
    assert {sample("notices_total", outcome=outcome) for outcome in ("done", "failed", "dropped")} <= told.keys()
    assert len([name for name, _ in told if name.endswith("_bucket")]) == len(BUCKETS_S) + 1


def test_before_the_first_look_nothing_is_said_of_it() -> None:
    """A heartbeat of 1970 would raise the alarm at every start that a monitor happens to see."""
    assert not [
        name for name, _ in read(Meter().text()) if name in ("voicekiln_heartbeat_timestamp_seconds", "voicekiln_up")
    ]


def full() -> Meter:
    """A meter that has something to say of everything."""
    meter = Meter()
    meter.see(GAUGES, 1.0)
    return meter


def test_the_readme_lists_every_metric() -> None:
    """With its kind, its labels and its words."""
    lines = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for family in sorted(text_string_to_metric_families(full().text().decode()), key=lambda family: family.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for s in family.samples for label in s.labels} - {"le"})
        lines.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    found = re.search(r"<!-- metrics -->\n(.*?)<!-- /metrics -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == "\n".join(lines) + "\n"


@needs_promtool
def test_the_metrics_are_as_prometheus_wants_them() -> None:
    """Its own checker has nothing to say about names, kinds and words."""
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=full().text(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# --- the alerts of the README ----------------------------------------------------------------------------------------


def alerts() -> str:
    found = re.search(r"<!-- alerts -->\n```yaml\n(.*?)```\n<!-- /alerts -->", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    """A name that has changed would make an alert that never comes."""
    asked = set(re.findall(r"voicekiln_\w+", alerts()))
    assert asked
    assert asked <= {name for name, _ in read(full().text())}


@needs_promtool
def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    """They are rules in its own eyes."""
    (tmp_path / "alerts.yml").write_text(alerts())
    done = subprocess.run([str(PROMTOOL), "check", "rules", tmp_path / "alerts.yml"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"3 rules found" in done.stdout


CASES = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
- name: all is well
  interval: 1m
  input_series:
  - {series: 'voicekiln_heartbeat_timestamp_seconds{instance="nas"}', values: '0+60x200'}
  - {series: 'voicekiln_up{instance="nas"}', values: '1x200'}
  - {series: 'voicekiln_share_up{instance="nas",share="inbox"}', values: '1x200'}
  - {series: 'voicekiln_oldest_waiting_age_seconds{instance="nas"}', values: '30x200'}
  - {series: 'voicekiln_conversions_total{instance="nas",outcome="converted"}', values: '0+1x200'}
  - {series: 'voicekiln_refusals_total{instance="nas",code="empty"}', values: '0x100 1x100'}
  - {series: 'voicekiln_worker_losses_total{instance="nas"}', values: '0x200'}
  alert_rule_test:
  - {eval_time: 2h, alertname: VoicekilnSilent}
  - {eval_time: 2h, alertname: VoicekilnStuck}
  - {eval_time: 2h, alertname: VoicekilnRefuses}
- name: killed, and the file stays
  interval: 1m
  input_series:
  - {series: 'voicekiln_heartbeat_timestamp_seconds{instance="nas"}', values: '0+60x60 3600x60'}
  alert_rule_test:
  - {eval_time: 2h, alertname: VoicekilnSilent, exp_alerts: [{exp_labels: {instance: nas}}]}
- name: a share is away
  interval: 1m
  input_series:
  - {series: 'voicekiln_share_up{instance="nas",share="inbox"}', values: '0x200'}
  alert_rule_test:
  - {eval_time: 2h, alertname: VoicekilnStuck, exp_alerts: [{exp_labels: {instance: nas}}]}
- name: something waits and nothing ends
  interval: 1m
  input_series:
  - {series: 'voicekiln_oldest_waiting_age_seconds{instance="nas"}', values: '0+60x200'}
  - {series: 'voicekiln_conversions_total{instance="nas",outcome="converted"}', values: '7x200'}
  - {series: 'voicekiln_conversions_total{instance="nas",outcome="refused"}', values: '3x200'}
  alert_rule_test:
  - {eval_time: 3h, alertname: VoicekilnStuck, exp_alerts: [{exp_labels: {instance: nas}}]}
- name: something waits for long, but others go on
  interval: 1m
  input_series:
  - {series: 'voicekiln_oldest_waiting_age_seconds{instance="nas"}', values: '0+60x200'}
  - {series: 'voicekiln_conversions_total{instance="nas",outcome="converted"}', values: '7+1x200'}
  alert_rule_test:
  - {eval_time: 3h, alertname: VoicekilnStuck}
- name: a burst of refusals
  interval: 1m
  input_series:
  - {series: 'voicekiln_refusals_total{instance="nas",code="empty"}', values: '0x100 20x100'}
  - {series: 'voicekiln_refusals_total{instance="nas",code="damaged"}', values: '0x100 20x100'}
  alert_rule_test:
  - {eval_time: 2h, alertname: VoicekilnRefuses, exp_alerts: [{exp_labels: {instance: nas}}]}
- name: workers die
  interval: 1m
  input_series:
  - {series: 'voicekiln_worker_losses_total{instance="nas"}', values: '0x100 9x100'}
  alert_rule_test:
  - {eval_time: 2h, alertname: VoicekilnRefuses, exp_alerts: [{exp_labels: {instance: nas}}]}
"""


@needs_promtool
def test_the_alerts_come_when_they_should(tmp_path: Path) -> None:
    """And not otherwise; Prometheus itself plays the cases through."""
    without_words = re.sub(r"(?m)^ +annotations:\n +summary: .*\n", "", alerts())
    (tmp_path / "alerts.yml").write_text(without_words)
    (tmp_path / "cases.yml").write_text(CASES)
    done = subprocess.run([str(PROMTOOL), "test", "rules", tmp_path / "cases.yml"], capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
