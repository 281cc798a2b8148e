"""The door to processes: starting a writer and hearing from it, watching, signals, forks."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
from support.processes import PATIENCE_S, kill9, script, wait_dead, wait_until

import raftlog_mp as rl
from raftlog_mp import errors, processes
from raftlog_mp import format as fmt

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20).as_dict()


@contextlib.contextmanager
def started(log_dir: str, config: dict[str, Any] | None = None) -> Any:
    """A started writer and its decoded report; killed at the end."""
    os.makedirs(log_dir, exist_ok=True)
    process, report = processes.start_writer(log_dir, config or SMALL, linger=False)
    try:
        yield process, processes.decode_report(report)
    finally:
        process.kill()
        assert processes.wait_child(process, PATIENCE_S)


# ---------------------------------------------------------------- starting
def test_a_started_writer_is_on_its_own(log_dir: str) -> None:
    with open(os.devnull, "rb") as ours, started(log_dir) as (process, report):
        os.set_inheritable(ours.fileno(), True)
        assert report == {"pid": process.pid, "generation": 1}
        writer = psutil.Process(process.pid)
        assert writer.cwd() == "/" and os.getsid(process.pid) == process.pid
        log = Path(log_dir) / fmt.WRITER_LOG_NAME
        # It reported before it let go of its pipes.
        wait_until("detached", lambda: os.readlink(f"/proc/{process.pid}/fd/1") == str(log))
        assert [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)] == [os.devnull, str(log), str(log)]
        targets = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")}
        assert not any(target.startswith("pipe:") for target in targets)
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_no_descriptor_is_inherited(log_dir: str, tmp_path: Path) -> None:
    with (tmp_path / "ours").open("wb") as ours:
        os.set_inheritable(ours.fileno(), True)
        with started(log_dir) as (process, _):
            names = os.listdir(f"/proc/{process.pid}/fd")
            targets = []
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    targets.append(os.readlink(f"/proc/{process.pid}/fd/{name}"))
            assert str(tmp_path / "ours") not in targets and len(targets) > 5


def test_the_reason_why_it_cannot_serve_is_its_report(log_dir: str) -> None:
    with started(log_dir) as (first, _), started(log_dir) as (second, report):
        assert report["error"] == "LogLocked"
        error = errors.from_wire(report)
        assert isinstance(error, errors.LogLocked) and error.pid == first.pid
        assert processes.wait_child(second, PATIENCE_S) and second.returncode == 3


def test_a_writer_that_dies_silently_has_an_empty_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process, report = processes.start_writer(str(tmp_path), SMALL, linger=False)
    assert report == b"" and processes.decode_report(report) == {}
    assert processes.wait_child(process, PATIENCE_S)


def test_an_interpreter_without_a_path_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(errors.WriterUnavailable, match="raftlog-mp serve DIR"):
        processes.start_writer(str(tmp_path), SMALL, linger=False)


def test_ended_writers_are_collected(log_dir: str) -> None:
    with started(log_dir) as (process, _):
        processes.reap()
        assert process in processes._children
        os.kill(process.pid, signal.SIGKILL)
        wait_dead(process.pid)  # a zombie now
        assert psutil.pid_exists(process.pid)
        processes.reap()
        assert process not in processes._children and not psutil.pid_exists(process.pid)


def test_waiting_for_a_child_that_goes_on(log_dir: str) -> None:
    with started(log_dir) as (process, _):
        assert processes.wait_child(process, 0.0) is False
        kill9(process.pid)
        assert processes.wait_child(process, PATIENCE_S) is True


def test_a_source_tree_stays_importable_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "__file__", str(tmp_path / "src" / "raftlog_mp" / "processes.py"))
    monkeypatch.setenv("PYTHONPATH", f"/a{os.pathsep}{tmp_path}/src{os.pathsep}{os.pathsep}/b")
    assert processes._environment()["PYTHONPATH"].split(os.pathsep) == [f"{tmp_path}/src", "/a", "/b"]
    monkeypatch.delenv("PYTHONPATH")
    assert processes._environment()["PYTHONPATH"] == f"{tmp_path}/src"
    monkeypatch.setattr(processes, "__file__", str(tmp_path / "site-packages" / "raftlog_mp" / "processes.py"))
    assert "PYTHONPATH" not in processes._environment()
    monkeypatch.setenv("RAFTLOG_TEST_WORD", "kept")
    assert processes._environment()["RAFTLOG_TEST_WORD"] == "kept"


# ---------------------------------------------------------------- the report
def test_a_report_ends_with_its_map_not_with_the_stream() -> None:
    """A fork in another thread may hold the pipe's other end open for ever."""
    read, write = os.pipe()
    report = msgpack.packb({"pid": 5, "text": "x" * 1000})
    try:
        os.write(write, report)
        heard: list[bytes] = []
        thread = threading.Thread(target=lambda: heard.append(processes._read_report(read)), daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert heard == [report]  # with the other end open
        os.write(write, report[:10])
        os.close(write)
        assert processes._read_report(read) == report[:10]  # half a report, then the end
    finally:
        os.close(read)


def test_a_report_in_pieces() -> None:
    source = """
import os, sys
data = bytes.fromhex(sys.argv[1])
for byte in data:
    os.write(1, bytes([byte]))
sys.stdin.read()
"""
    report = msgpack.packb({"error": "CorruptLog", "message": "m" * 50})
    with script(source, report.hex()) as child:
        assert child.process.stdout is not None
        assert processes._read_report(child.process.stdout.fileno()) == report


@pytest.mark.parametrize("report", [b"", b"\x81", msgpack.packb([1]), msgpack.packb({"a": 1}) + b"x", b"\xc1"])
def test_what_is_no_report(report: bytes) -> None:
    assert processes.decode_report(report) == {}


INSTRUCTED = "from raftlog_mp import processes; print(processes.read_instructions())"


@pytest.mark.parametrize(("sent", "heard"), [
    (msgpack.packb({"config": None, "linger": True}), {"config": None, "linger": True}), (b"", None),
    (msgpack.packb({"config": None, "linger": True})[:-1], None), (msgpack.packb({"config": None}), None),
    (msgpack.packb([1, 2]), None), (b"\xc1", None),
])  # fmt: skip
def test_instructions_come_whole_from_stdin_or_not_at_all(sent: bytes, heard: dict[str, Any] | None) -> None:
    done = subprocess.run([sys.executable, "-c", INSTRUCTED], input=sent, capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(heard)


def test_after_its_report_a_writer_holds_no_pipe(tmp_path: Path) -> None:
    source = """
import os, sys
from raftlog_mp import processes
processes.report_and_detach({"pid": 1})
print("for the log", flush=True)
os.write(2, os.readlink("/proc/self/fd/0").encode())
"""
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, msgpack.unpackb(out)) == (0, {"pid": 1})
        assert (tmp_path / "log").read_bytes() == b"for the log\n" + os.devnull.encode()


def test_a_report_to_a_starter_that_is_gone() -> None:
    source = """
import signal, sys
from raftlog_mp import processes
sys.stdin.read()
processes.report_and_detach({"pid": 1})
sys.exit(7)
"""
    with script(source) as child:
        assert child.process.stdout is not None and child.process.stdin is not None
        child.process.stdout.close()
        child.process.stdin.close()
        assert child.wait() == 7


# ---------------------------------------------------------------- watching
def test_a_watch_tells_the_end_of_a_process_that_is_not_ours() -> None:
    with script("import sys; sys.stdin.readline()") as child:
        watch = processes.Watch(child.pid)
        try:
            assert watch.wait(0.0) is False
            assert watch.wait(-1.0) is False  # a deadline that has passed: a mere look
            child.say("go")
            assert watch.wait(math.inf) is True
            assert watch.wait(0.0) is True
        finally:
            watch.close()
            watch.close()
        child.wait()
        gone = processes.Watch(child.pid)  # reaped: no such process
        assert gone.wait(0.0) is True
        gone.close()


def test_a_watch_on_a_descriptor_that_select_would_refuse() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("descriptors above 1023 are not allowed here")
    with script("import sys; sys.stdin.readline()") as child, contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        null = stack.enter_context(open(os.devnull, "rb"))
        while (fd := os.dup(null.fileno())) < 1024:
            stack.callback(os.close, fd)
        stack.callback(os.close, fd)
        watch = processes.Watch(child.pid)
        stack.callback(watch.close)
        assert watch._fd > 1023 and watch.wait(0.0) is False
        child.say("go")
        assert watch.wait(PATIENCE_S) is True


YIELDING = """
import os, threading
from raftlog_mp import processes
if os.geteuid() == 0:
    os.setuid(65534)  # root may become less nice; who may not is not to fail
def told():
    processes.yield_to_others()
    found.append(os.nice(0))
for more in (0, 19):
    os.nice(more)
    before, found = os.nice(0), []
    thread = threading.Thread(target=told)
    thread.start()
    thread.join()
    print(os.nice(0) - before, found[0] - min(before + 15, 19))
"""


def test_a_thread_that_yields_leaves_the_others_as_they_are() -> None:
    """Also in a process that is as nice as can be: it asks for nothing that is not allowed."""
    with script(YIELDING) as child:
        assert child.finish().split() == ["0", "0", "0", "0"]


# ---------------------------------------------------------------- signals, forks, threads
SIGNALLED = """
import os, signal, sys
from raftlog_mp import processes
def tell(number, frame):  # print() may be in the middle of the line before
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
processes.on_signals(tell, interrupt=sys.argv[1] == "1")
print("ready", flush=True)
for line in sys.stdin:
    print("line", flush=True)
"""


@pytest.mark.parametrize("foreground", [True, False])
def test_which_signals_ask_for_an_orderly_stop(foreground: bool) -> None:
    with script(SIGNALLED, str(int(foreground))) as child:
        assert child.line() == "ready"
        for number in (signal.SIGINT, signal.SIGHUP):
            child.send_signal(number)
            if foreground:
                assert child.line() == number.name
            else:
                child.say("still there")
                assert child.line() == "line"
        child.send_signal(signal.SIGTERM)
        assert child.line() == "SIGTERM"


def test_a_forked_child_forgets_the_writers_of_its_parent(log_dir: str) -> None:
    with started(log_dir) as (process, _):
        assert process in processes._children
        with processes._children_lock:  # as another thread might hold it during the fork
            pid = os.fork()
            if pid == 0:
                processes.reap()  # would wait for ever
                os._exit(len(processes._children))
        deadline = time.monotonic() + PATIENCE_S
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        assert process in processes._children


def test_the_switch_interval_is_set() -> None:
    before = sys.getswitchinterval()
    try:
        processes.set_switch_interval(0.0007)
        assert sys.getswitchinterval() == pytest.approx(0.0007)
    finally:
        sys.setswitchinterval(before)
