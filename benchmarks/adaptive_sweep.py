"""Adaptive beside Immediate and hand-tuned Batch: latency and fsyncs over the arrival rate, and over the clients.

    python benchmarks/adaptive_sweep.py [--small] [--json] [--save FILE.json] [--plot FILE.png] [--rounds 3]
    python benchmarks/adaptive_sweep.py --draw FILE.json --plot FILE.png

Open loop: several client processes submit at given rates, at random moments (Poisson), whether or not what came before
is answered; latency counts from the moment a submission was due.  Closed loop: each client appends one entry at a time.
Every policy has a log and a writer of its own; all are alive during the whole run, and at each load they take turns,
each second round backwards.  Figures are medians of the rounds, with the least and the largest beside them.  After each
measurement every client reads what it was answered, and compares; the first wrong entry ends the run.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import raftlog_mp as rl

PAYLOAD_BYTES = 256
POLICIES = ("immediate", "batch:4:5", "batch:8:5", "batch:64:5", "batch:1024:3.5", "batch:1024:5", "adaptive:5")
RATES = (100, 300, 1_000, 2_000, 4_000, 8_000, 16_000)  # entries a second, of all clients together
CLIENTS = (1, 2, 3, 4, 6, 8)
WARM_SECONDS = 0.2  # of the load, before anything counts
MEASURES = ("p50_ms", "p99_ms", "fsyncs_per_append", "appends_per_s")
Load = dict[str, Any]
Answers = list[tuple[int, bytes]]  # index and payload

numbers = itertools.count()


# ---------------------------------------------------------------- client processes
def new_payload() -> bytes:
    """No other entry of any log has it."""
    return (b"%d/%d" % (os.getpid(), next(numbers))).ljust(PAYLOAD_BYTES, b".")


def check(log: rl.Log, answers: Answers) -> None:
    """Ends the process if the log does not say what the answers did."""
    for index, payload in answers:
        entry = log.get(index)
        if entry is None or entry.payload != payload:
            raise SystemExit(f"{log.stats().path}: entry {index} is not what was appended there")


def open_loop(log: rl.Log, load: Load, answers: Answers) -> list[float]:
    """Submit at random moments; a thread waits for the answers.  Seconds from when each was due."""
    draw, taken = random.Random(load["seed"]), []
    sent: collections.deque[tuple[float, bytes, rl.Ticket[range] | None]] = collections.deque()
    more = threading.Semaphore(0)

    def reap() -> None:
        while True:
            more.acquire()
            due, payload, ticket = sent.popleft()
            if ticket is None:
                return
            answers.append((ticket.result(60.0)[0], payload))
            if due >= load["from"]:
                taken.append(time.monotonic() - due)

    reaper = threading.Thread(target=reap)
    reaper.start()
    due = load["start"] + draw.expovariate(load["rate"])
    while due < load["until"]:
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        payload = new_payload()
        sent.append((due, payload, log.submit([payload])))
        more.release()
        due += draw.expovariate(load["rate"])
    sent.append((due, b"", None))
    more.release()
    reaper.join()
    return taken


def closed_loop(log: rl.Log, load: Load, answers: Answers) -> list[float]:
    """Append one at a time.  Seconds of each append."""
    taken = []
    time.sleep(max(0.0, load["start"] - time.monotonic()))
    began = time.monotonic()
    while began < load["until"]:
        payload = new_payload()
        answers.append((log.append(payload), payload))
        end = time.monotonic()
        if began >= load["from"]:
            taken.append(end - began)
        began = end
    return taken


def client() -> None:
    """A client process: loads come in as lines of JSON, latencies go out."""
    sys.setswitchinterval(1e-4)  # the thread that submits must not wait for the one that reaps
    with contextlib.ExitStack() as stack:
        logs: dict[str, rl.Log] = {}
        for line in sys.stdin:
            load = json.loads(line)
            path = load["path"]
            if path not in logs:
                logs[path] = stack.enter_context(rl.open_log(path, create=False, autostart=False))
            if "start" in load:
                answers: Answers = []
                taken = (open_loop if "rate" in load else closed_loop)(logs[path], load, answers)
                check(logs[path], answers)
                print(json.dumps([round(seconds, 7) for seconds in taken]), flush=True)
            else:
                print("[]", flush=True)


class Clients:
    """Client processes that take the same load together."""

    def __init__(self, count: int) -> None:
        self.count = count
        command = [sys.executable, str(Path(__file__).resolve()), "--client"]
        self._all = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]

    def tell(self, loads: list[Load]) -> None:
        """One load for each of the first clients."""
        for process, load in zip(self._all, loads, strict=False):
            assert process.stdin is not None
            process.stdin.write(json.dumps(load) + "\n")
            process.stdin.flush()

    def hear(self, count: int) -> list[float]:
        """What the first ``count`` clients have measured."""
        found: list[float] = []
        for process in self._all[:count]:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("a client has given up; what it says stands above")
            found += json.loads(line)
        return found

    def close(self) -> None:
        """Let them end."""
        for process in self._all:
            process.communicate()


# ---------------------------------------------------------------- measuring
def measure(clients: Clients, log: rl.Log, load: Load, seconds: float, seed: int) -> dict[str, float]:
    """One policy under one load, once."""
    count = load["clients"]
    start = time.monotonic() + 0.02
    begin, until = start + WARM_SECONDS, start + WARM_SECONDS + seconds
    each: Load = {"path": log.stats().path, "start": start, "from": begin, "until": until}
    if "rate" in load:
        each["rate"] = load["rate"] / count
    clients.tell([each | {"seed": seed * 100 + number} for number in range(count)])
    time.sleep(max(0.0, begin - time.monotonic()))
    before, at = log.stats(), time.monotonic()
    time.sleep(max(0.0, until - time.monotonic()))
    after, end = log.stats(), time.monotonic()
    taken = sorted(clients.hear(count))
    appends = after.appends - before.appends
    if not taken or not appends:  # the machine was busy with something else all the time
        return measure(clients, log, load, 2 * seconds, seed)
    return {
        "p50_ms": taken[len(taken) // 2] * 1e3, "p99_ms": taken[len(taken) * 99 // 100] * 1e3,
        "fsyncs_per_append": (after.fsyncs - before.fsyncs) / appends, "appends_per_s": appends / (end - at),
    }  # fmt: skip


def figures(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def name_of(load: Load) -> str:
    return f"{load['rate']}/s" if "rate" in load else f"{load['clients']} clients"


def sweep(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every load under every policy, in turns."""
    loads: list[Load] = [{"clients": options.open_clients, "rate": rate} for rate in options.rates]
    loads += [{"clients": count} for count in options.clients]
    rows = []
    clients = Clients(max(load["clients"] for load in loads))
    with contextlib.ExitStack() as stack:
        stack.callback(clients.close)
        logs: dict[str, rl.Log] = {}
        for policy in options.policies:
            config = rl.LogConfig(
                strategy=options.strategy, flush_policy=policy,  # their values, as text
                scrub_bytes_per_s=0, ring_bytes=8 << 20,
            )  # fmt: skip
            path = folder / policy.replace(":", "_")
            stack.enter_context(rl.start_writer(path, config))
            logs[policy] = stack.enter_context(rl.open_log(path, create=False, autostart=False))
            clients.tell([{"path": str(path)}] * clients.count)
            clients.hear(clients.count)  # all are connected
        for load in loads:
            found: dict[str, list[dict[str, float]]] = {policy: [] for policy in logs}
            seconds = max(options.seconds, 40 * options.seconds / load.get("rate", 1e9))
            for number in range(options.rounds):
                for policy in logs if number % 2 == 0 else reversed(logs):
                    found[policy].append(measure(clients, logs[policy], load, seconds, number))
            cells = {
                policy: {what: figures([one[what] for one in several]) for what in MEASURES}
                for policy, several in found.items()
            }
            rows.append({"load": load, "policies": cells})
            if not options.json:
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """A table for people."""
    print(f"\n{name_of(row['load']):>12}      p50 ms            p99 ms           fsyncs/append      appends/s")
    for policy, cells in row["policies"].items():
        columns = [f"{c['median']:8.3f} ({c['min']:.3f}-{c['max']:.3f})" for c in (cells[w] for w in MEASURES[:3])]
        print(f"{policy:>14} {'  '.join(columns)}  {cells['appends_per_s']['median']:8.0f}", flush=True)


# ---------------------------------------------------------------- picture
INK, ORANGE, BLUE = "#222222", "#d9822b", "#2563a8"
GREYS = ("#b9bec4", "#9aa0a6", "#7b8188", "#5c6268", "#44494e")
MARKERS = ("v", "^", "s", "D", "P")
ADVICE = "No picture: matplotlib is not installed. Install it with: pip install 'raftlog_mp[bench]'"


def style_of(policy: str, batches: list[str]) -> dict[str, Any]:
    """Adaptive stands out, the hand-tuned ones are greys."""
    if policy.startswith("adaptive"):
        return {"color": ORANGE, "marker": "o", "linewidth": 2.6, "markersize": 6, "zorder": 5}
    if policy.startswith("immediate"):
        return {"color": BLUE, "marker": "o", "linewidth": 1.8, "markersize": 4.5, "zorder": 4}
    place = batches.index(policy) % len(GREYS)
    return {"color": GREYS[place], "marker": MARKERS[place], "linewidth": 1.2, "markersize": 4, "zorder": 3}


def label_of(policy: str) -> str:
    """As people write it."""
    name, *numbers = policy.split(":")
    units = ("", " ms") if name == "batch" else (" ms",)
    said = ", ".join(number + unit for number, unit in zip(numbers, units, strict=False))
    return name.capitalize() + (f"({said})" if said else "")


def panel(axes: Any, ticker: Any, rows: list[dict[str, Any]], x: list[float], what: str) -> None:
    """One line a policy: the medians, with a shade from the least to the largest for those that are compared."""
    policies = list(rows[0]["policies"])
    batches = [policy for policy in policies if policy.startswith("batch")]
    for policy in policies:
        cells = [row["policies"][policy][what] for row in rows]
        style = style_of(policy, batches)
        axes.plot(x, [cell["median"] for cell in cells], label=label_of(policy), **style)
        if policy not in batches:
            low, high = [cell["min"] for cell in cells], [cell["max"] for cell in cells]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0, zorder=2)
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#e8e8e8", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    if high / low < 200:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


TITLES = {"p50_ms": "Latency, p50 (ms)", "p99_ms": "Latency, p99 (ms)", "fsyncs_per_append": "Fsyncs per append"}


def draw(result: dict[str, Any], path: str) -> None:
    """The picture; matplotlib is needed only here."""
    from matplotlib import ticker
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = [
        ([row for row in result["rows"] if "rate" in row["load"]], "rate"),
        ([row for row in result["rows"] if "rate" not in row["load"]], "clients"),
    ]
    parts = [(rows, key) for rows, key in parts if rows]
    figure = Figure(figsize=(13.5, 1.1 + 3.6 * len(parts)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(parts), 3, squeeze=False)
    for line, (rows, key) in zip(grid, parts, strict=True):
        x = [row["load"][key] for row in rows]
        for axes, (what, title) in zip(line, TITLES.items(), strict=True):
            panel(axes, ticker, rows, x, what)
            axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
            if key == "rate":
                axes.set_xscale("log")
                axes.set_xticks(x, [f"{v // 1000}k" if v >= 1000 else str(v) for v in x])
                axes.set_xlabel(f"entries a second, from {result['open_clients']} processes that do not wait")
            else:
                axes.set_xticks(x)
                axes.set_xlabel("clients, each appending one entry at a time")
            axes.minorticks_off()
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    title = f"Adaptive beside Immediate and hand-tuned Batch ({result['strategy']}, 256-byte entries)"
    note = f"{result['machine']}; medians of {result['rounds']} rounds in turns, shades: least to largest"
    figure.suptitle(f"{title}\n", fontsize=13, color=INK, x=0.012, ha="left")
    figure.text(0.012, 1 - 0.46 / figure.get_figheight(), note, fontsize=9, color="#666666", ha="left", va="center")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--small", action="store_true", help="a short run that shows only that everything works")
    add("--json", action="store_true", help="print the result as JSON")
    add("--save", metavar="FILE", help="write the result as JSON")
    add("--plot", metavar="FILE", help="draw the picture (needs matplotlib)")
    add("--draw", metavar="FILE", help="measure nothing: take the result from this file")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=0.5, help="of each measurement; more at low rates")
    add("--strategy", default="disk_first", choices=("disk_first", "mem_first"))
    add("--policies", type=lambda text: text.split(","), default=POLICIES)
    add("--rates", type=lambda text: [int(word) for word in text.split(",") if word], default=RATES)
    add("--clients", type=lambda text: [int(word) for word in text.split(",") if word], default=CLIENTS)
    add("--open-clients", type=int, default=4, help="processes of the open loop")
    add("--folder", default=None, help="where the logs are made")
    add("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client()
        return
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit(ADVICE)  # before minutes of measuring
    if options.small:
        options.rounds, options.seconds, options.policies = 1, 0.1, ("immediate", "batch:4:5", "adaptive:5")
        options.rates, options.clients, options.open_clients = (1_000,), (1,), 2
    if options.draw:
        result = json.loads(Path(options.draw).read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows = sweep(Path(folder), options)
        machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
        result = {
            "machine": machine, "strategy": options.strategy, "rounds": options.rounds, "seconds": options.seconds,
            "open_clients": options.open_clients, "rows": rows,
        }  # fmt: skip
    if options.save:
        Path(options.save).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(result))
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
