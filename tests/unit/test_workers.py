"""Work in other processes: complete whatever happens to them, and none is left behind."""

from __future__ import annotations

import math
import operator
import os
import signal
import sys
import threading
from typing import Any

import psutil
import pytest
from support.processes import kill9, script, wait_dead, wait_until

from raftlog_mp import processes
from raftlog_mp.processes import in_workers


def test_every_item_is_computed_in_another_process() -> None:
    groups = set(in_workers(os.getpgid, [0] * 4, 2))
    assert 1 <= len(groups) <= 2 and os.getpgid(0) not in groups
    assert sorted(in_workers(operator.neg, [], 2)) == []


def test_beside_threads_that_hold_locks() -> None:
    """A fork would copy the lock and not the thread that gives it back."""
    lock, enough = threading.Lock(), threading.Event()
    with lock:
        thread = threading.Thread(target=enough.wait)
        thread.start()
        try:
            assert sorted(in_workers(operator.neg, range(5), 1)) == [-4, -3, -2, -1, 0]
        finally:
            enough.set()
            thread.join()


def test_what_the_function_raises_is_raised_here() -> None:
    found = in_workers(math.sqrt, [4.0, -1.0, 9.0], 1)
    assert next(found) == 2.0
    with pytest.raises(ValueError, match="math domain error"):
        next(found)
    assert list(found) == []


def test_what_a_killed_process_had_in_hand_is_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    real = processes._Worker.give

    def give(self: processes._Worker, item: int) -> None:
        if item in (1, 3):
            self.process.kill()
            self.process.wait()
        real(self, item)

    monkeypatch.setattr(processes._Worker, "give", give)
    assert sorted(in_workers(operator.neg, range(6), 2)) == [-5, -4, -3, -2, -1, 0]


@pytest.mark.parametrize("how", ["no interpreter", "no process"])
def test_without_processes_it_is_all_computed_here(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "no more processes")

    if how == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    else:
        monkeypatch.setattr(processes.subprocess, "Popen", refused)
    assert list(in_workers(os.getpgid, [0] * 3, 2)) == [os.getpgid(0)] * 3


# A script as people write it: no guard, threads, and it may be ended at any moment.
SCRIPT = """
import sys, threading, time
from raftlog_mp.processes import in_workers
print("begun", flush=True)
threading.Thread(target=threading.Event().wait, daemon=True).start()
for _ in in_workers(time.sleep, [float(seconds) for seconds in sys.argv[1:]], 2):
    print("one is done", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["interrupted", "killed"])
def test_no_process_outlives_a_script(end: str) -> None:
    seconds = ("1000", "1000") if end == "interrupted" else ("0", "0", "0", "0")
    with script(SCRIPT, *seconds) as child:
        assert child.line() == "begun"
        if end == "interrupted":
            wait_until("two workers", lambda: len(psutil.Process(child.pid).children()) == 2)
        else:
            assert child.line() == "one is done"
        workers = [worker.pid for worker in psutil.Process(child.pid).children()]
        assert workers
        if end == "killed":
            kill9(child.pid)
        else:
            child.send_signal(signal.SIGINT)
            assert child.wait() == -signal.SIGINT, "as Ctrl-C ends a script"
            assert child.process.stdout is not None and "begun" not in child.process.stdout.read(), "it ran once"
        for pid in workers:
            wait_dead(pid)
