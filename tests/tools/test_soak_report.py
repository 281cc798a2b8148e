"""The soak's plan, its report, its screen, and its command line."""

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import memory_soak
import pytest
import soak_plots
import soak_profile
import soak_report
from rich.console import Console
from soak_check import REFUSED
from soak_plan import make_plan
from soak_run import Soak
from soak_screen import Screen, rows_of
from soak_verdict import Event, Run, figures_of, problems
from test_soak_verdict import record, sample, true_run

import raftlog_mp as rl

SETTINGS = {"seconds": 100.0, "producers": 3, "readers": 2, "kills": 5, "stops": 4, "fsync_ms": 50.0, "rate": 10.0,
            "payload_bytes": 100}  # fmt: skip
# docs/soak.md describes these.
KEYS = {"version", "verdict", "problems", "command", "options", "started", "machine", "limits", "plan", "figures",
        "series", "samples", "events", "integrity"}  # fmt: skip
DOCUMENT = Path(memory_soak.__file__).parents[1] / "docs" / "soak.md"


# ------------------------------------------------------------ plan
def test_one_seed_one_plan() -> None:
    assert make_plan(**SETTINGS, seed=3) == make_plan(**SETTINGS, seed=3)
    assert make_plan(**SETTINGS, seed=3).actions != make_plan(**SETTINGS, seed=4).actions


def test_kills_and_stops_stay_out_of_what_is_compared() -> None:
    for seed in range(20):
        plan = make_plan(**SETTINGS, seed=seed)
        assert [action.kind for action in plan.actions].count("kill") == 5 and len(plan.actions) == 9
        assert {"kill", "stop"} <= {action.kind for action in plan.actions if action.target == "writer"}
        for action in plan.actions:
            assert plan.before[1] < action.at_s and action.at_s + action.seconds < plan.after[0]


def test_pressure_rises_stands_and_falls() -> None:
    plan = make_plan(**SETTINGS, seed=1)
    heights = [plan.height_at(second) for second in (0, 24, 32.5, 40, 60, 65, 70, 100, 500)]
    assert heights == pytest.approx([0, 0, 0.5, 1, 1, 0.5, 0, 0, 0])
    assert [plan.fsync_ms_at(second) for second in (0, 24, 26, 59, 61)] == [0, 0, 50, 50, 0]
    assert [plan.phase_at(second) for second in (0, 30, 50, 65, 99, 101)] == [
        "before", "rise", "high", "fall", "after", "after",
    ]  # fmt: skip


# ------------------------------------------------------------ report
@pytest.fixture
def report() -> dict:
    run = true_run()
    run.events = [Event(1.0, "kill", "writer", "pid <b>1</b>"), Event(2.0, "stop", "reader-1", "pid 2")]
    return soak_report.as_dict(run, problems(run), command="soak <x>", options={"seed": 7}, started="now")


class Links(HTMLParser):
    """Everything that a browser would fetch, or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def links_of(page: str) -> Links:
    parser = Links()
    parser.feed(page)
    return parser


def test_the_report_has_its_keys_and_is_json(report: dict, tmp_path: Path) -> None:
    files = soak_report.write(tmp_path / "new" / "folder", report, (0.8, 0.9))
    again = json.loads(files[0].read_text())
    assert set(again) == KEYS and again["verdict"] == "pass" and again["problems"] == []
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in KEYS | set(again["figures"]) | set(again["samples"][0]) | set(again["limits"]):
        assert f"`{name}`" in text, f"{name} is not described in docs/soak.md"


def test_the_page_needs_nothing_but_itself(report: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = soak_report.write(tmp_path, report, (0.8, 0.9))
    page = files[1].read_text()
    links = links_of(page)
    assert len(links.found) == 1 and links.found[0].startswith("data:image/png;base64,")
    assert not links.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?://", page)
    assert "soak &lt;x&gt;" in page and "<b>" not in page
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_page_says_so_and_is_a_table(report: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(soak_plots.importlib.util, "find_spec", lambda name: None)
    files = soak_report.write(tmp_path, report, None)
    page = files[1].read_text()
    assert [path.name for path in files] == ["soak.json", "soak.html"]
    assert "pip install" in page and page.count("<td>hard</td>") > 0 and links_of(page).found == []


def test_matplotlib_is_loaded_for_a_picture_only() -> None:
    code = "import memory_soak, sys; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(memory_soak.__file__).parent, check=True, timeout=60)


def test_a_failed_page_lists_every_problem(report: dict) -> None:
    page = soak_report.page({**report, "verdict": "fail", "problems": ["LOST: one", "two"]}, None)
    assert "<li>LOST: one</li><li>two</li>" in page and "PASS" not in page


def test_a_report_of_nothing_is_still_a_report(tmp_path: Path) -> None:
    plan = make_plan(**SETTINGS, seed=1)
    run = Run(plan, true_run().limits, failures=["the writer: not there within 60 s"])
    found = problems(run)
    assert len(found) >= 3
    report = soak_report.as_dict(run, found, command="", options={}, started="")
    assert soak_report.write(tmp_path, report, None)[0].exists()


# ------------------------------------------------------------ screen
@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_level_memory_and_events(terminal: bool) -> None:
    run, screen = true_run(), Screen()
    screen.console = Console(force_terminal=terminal, width=110, record=True, highlight=False, file=io.StringIO())
    with screen:
        screen.event(Event(9.0, "kill", "writer", "pid 7"))
        hard = sample(9.5)
        fresh = [one for found in run.records.values() for one in found if 8 < one.done_s < 9.5]
        if terminal:
            screen.console.print(screen.table(run, hard, *screen._figures(run, hard, fresh)))
        else:
            screen.sample(run, hard, fresh)
        text = screen.console.export_text()
    assert "hard" in text and "kill: writer pid 7" in text
    assert re.search(r"p50 10\.0 ms +p99 10\.0 ms", text)
    assert ("50.0 of 69.0 MiB" in text and "3.0 of 4.0 MiB" in text) == terminal


# ------------------------------------------------------------ profile
def profile_run() -> Run:
    """Flooders: 1000 entries/s with the disk as it is, 500 with the slow one; the polite client: 10 ms, then 20."""
    plan = soak_profile.make_plan(seconds=40, producers=1, readers=0, fsync_ms=50, payload_bytes=1024)
    records = {"producer-1": [], soak_profile.POLITE: []}
    for step in range(400):
        t = step / 10 + 0.05
        rate = 0 if t < 10 else 1000 if t < 18 or t >= 32 else 500
        if rate:
            records["producer-1"].append(record(1 + 100 * step, 1, t, count=rate // 10))
        wait = 0.010 if t < 10 else 0.020
        records[soak_profile.POLITE].append(record(step, 1, t, count=1)._replace(sent_s=t - wait))
    samples = [sample(number / 4)._replace(fsyncs=number, fsync_ms_total=50.0 * number) for number in range(160)]
    return Run(plan, true_run().limits, records=records, samples=samples)


def held(run: Run, strategy: str = "mem_first") -> list[bool | None]:
    return [row.held for row in soak_profile.rows_of(run, strategy)]


def test_profile_rows() -> None:
    run = profile_run()
    assert held(run) == [True, True, False, True, True]  # 500 of 1000: the ring would take 40 MB/s
    run.limits = run.limits._replace(max_buffered_bytes=60_000)
    assert held(run)[2:4] == [True, True]  # ring-bound; the polite client's share of it is its own
    assert held(run, "disk_first")[2:4] == [False, None]  # which may hand a whole ring to each sync
    run.records[soak_profile.POLITE] = [
        one._replace(sent_s=one.done_s - 0.031) if one.done_s > 18 else one for one in run.records[soak_profile.POLITE]
    ]
    run.limits = true_run().limits
    assert held(run)[3] is False


def test_profile_notices_a_late_recovery_and_a_big_writer() -> None:
    run = profile_run()
    flood = run.records["producer-1"]
    run.records["producer-1"] = [one._replace(count=50) if 32 < one.done_s < 34 else one for one in flood]
    run.samples[5] = run.samples[5]._replace(rss={"writer": 69 << 20})
    assert held(run) == [False, True, False, True, False]


# ------------------------------------------------------------ command line
WRONG = [["--seconds", "1"], ["--producers", "0"], ["--payload-bytes", "3"], ["--strategy", "none"], ["--kills", "-1"],
         ["--flush-policy", "sometimes"], ["--recovered", "0"], ["--profile", "slow-disk", "--kills", "1"],
         ["--pressure", "much"], ["--dir", "/does/not/exist"]]  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=" ".join)
def test_usage_errors(options: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        memory_soak.main(options)
    assert ended.value.code == 2 and options[0] in capsys.readouterr().err


@pytest.mark.parametrize("bad", [True, False])
def test_a_failed_run_exits_with_1_and_keeps_its_folder(tmp_path: Path, monkeypatch, capsys, bad: bool) -> None:
    run = true_run()
    if bad:
        run.records["producer-1"][3] = run.records["producer-1"][3]._replace(outcome=REFUSED, overrun_s=9.0)
    monkeypatch.setattr(Soak, "execute", lambda self: setattr(self, "run", run) or run)
    monkeypatch.setattr(memory_soak.signal, "signal", lambda *_: None)
    code = memory_soak.main(["--dir", str(tmp_path), "--json"])
    shown = capsys.readouterr()
    assert code == int(bad)
    assert json.loads(shown.out)["verdict"] == ("fail" if bad else "pass")
    assert ("FAIL: producer-1 waited" in shown.err) == bad and ("PASS" in shown.err) != bad
    assert len(list(tmp_path.iterdir())) == int(bad)


def test_real_thresholds_lie_just_above_what_is_used() -> None:
    found = memory_soak.real_thresholds(0.30, 0.10)
    assert isinstance(found, rl.PressureConfig) and (found.soft, found.hard) == pytest.approx((0.34, 0.38))
    nothing_used = memory_soak.real_thresholds(0.01, 0.001)
    assert nothing_used.soft == 0.05 < nothing_used.hard
    nearly_full = memory_soak.real_thresholds(0.99, 0.10)
    assert nearly_full.soft < nearly_full.hard <= 0.99


def test_figures_are_shown_for_every_phase() -> None:
    rows = dict(rows_of(figures_of(true_run())))
    assert rows["throughput by phase"] == "before 40, rise 40, high 40, fall 40, after 40"
