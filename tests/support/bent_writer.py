"""A writer process with one thing bent: it dies at a chosen step, or breaks a rule that a harness must notice.

Run as ``python bent_writer.py DIR SPEC``, SPEC a JSON map::

    config   LogConfig.as_dict(), or null to adopt the stored one
    linger   whether to exit when the last client left
    die      [dotted name, "before" | "after", call number]: SIGKILL itself at that call
    bend     "publish_early" | "publish_first" | "forget_sent" | "skip_sync": a broken build, for the negative controls
    general  true: no round goes the straight way

It prints one line once it serves.  Nothing of this is in the product: everything is patched from outside.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from raftlog_mp import files, layout, pipeline, producers, shm, straight_round, writer
from raftlog_mp import format as fmt
from raftlog_mp.config import LogConfig


def die() -> None:
    """As a crash would: no handler, no flush, nothing."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(target: str, moment: str, number: int) -> Callable[[], None]:
    """Kill this process at the given call of ``module.Class.method`` (or ``module.function``).

    Returns a function that starts the counting.
    """
    module_name, *path = target.split(".")
    owner: Any = importlib.import_module(f"raftlog_mp.{module_name}")
    for name in path[:-1]:
        owner = getattr(owner, name)
    original = getattr(owner, path[-1])
    calls = [-(10**9)]

    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if moment == "before" and calls[0] == number:
            die()
        result = original(*args, **kwargs)
        if moment == "after" and calls[0] == number:
            die()
        return result

    setattr(owner, path[-1], replacement)
    for module in list(sys.modules.values()):  # those that imported the function by name
        if module.__name__.startswith("raftlog_mp.") and getattr(module, path[-1], None) is original:
            setattr(module, path[-1], replacement)
    return lambda: calls.__setitem__(0, 0)


def bend_straight_rounds(wrong: Callable[[Any, straight_round.Group], None]) -> None:
    """In the fifth straight round, ``wrong(intake, group)`` is done before anything that is right; then it dies."""
    taker, rounds = straight_round._taker, iter(range(1, 10**9))

    def bent(intake: Any) -> Callable[[], straight_round.Group | None]:
        take = taker(intake)

        def take_and_go_wrong() -> straight_round.Group | None:
            group = take()
            if group is not None and group[0] and next(rounds) == 5:
                wrong(intake, group)
                die()
            return group

        return take_and_go_wrong

    straight_round._taker = bent


def publish_early() -> None:
    """Answers go out before the bytes are in ring or file; the fifth time the process dies in between."""
    commit, rounds = writer.Writer._commit, iter(range(1, 10**9))

    def bent(self: Any, moved: bool) -> None:
        self._completions.post()
        if moved and self.journal._parts and next(rounds) == 5:
            die()
        commit(self, moved)

    def answer(intake: Any, group: straight_round.Group) -> None:
        for index, (_, lane, sequence, _) in enumerate(group[0], intake.journal.next_index):
            lane.complete([(sequence, layout.OK, index, 1, intake.journal.last_term, 0)])

    writer.Writer._commit = bent  # type: ignore[method-assign]
    bend_straight_rounds(answer)


def forget_sent() -> None:
    """The exactly-once table is ignored: whatever is sent again is appended again."""
    producers.Producers.look_up = lambda self, producer, sequence: (producers.NEW, None)  # type: ignore[method-assign]


def publish_first() -> None:
    """The commit word and last_index move before ring bytes and slots are in place; the fifth time it dies between."""
    copy, rounds = pipeline.Pipeline.copy_to_ring, iter(range(1, 10**9))

    def bent(self: Any) -> None:
        if self._parts:
            self.control.published.store(self.end, shm.SEQ_CST)
            self.control.last_index.store(self.next_index - 1, shm.SEQ_CST)
            if next(rounds) == 5:
                die()
        copy(self)

    def publish(intake: Any, group: straight_round.Group) -> None:
        taken, data, _ = group
        intake.control.published.store(intake.journal.end + len(data), shm.SEQ_CST)
        intake.control.last_index.store(intake.journal.next_index - 1 + len(taken), shm.SEQ_CST)

    pipeline.Pipeline.copy_to_ring = bent  # type: ignore[method-assign]
    bend_straight_rounds(publish)


def skip_sync() -> None:
    """fdatasync and fsync do nothing."""
    files.Files.sync = files.Files.sync_all = lambda self, fd: None  # type: ignore[method-assign]


class PowerCut:
    """Remembers what every synced file held; :meth:`strike` puts that back, as if the power had gone."""

    def __init__(self) -> None:
        self._writes: dict[tuple[int, int], list[tuple[int, bytes]]] = {}  # by device and inode: old bytes, not synced
        pwrite, sync, sync_all = files.Files.pwrite, files.Files.sync, files.Files.sync_all
        self._kept: dict[tuple[int, int], int] = {}  # a descriptor of our own for each file that was written

        def noted_pwrite(this: Any, fd: int, data: Any, offset: int) -> None:
            self._writes.setdefault(self._file(fd), []).append((offset, os.pread(fd, len(data), offset)))
            pwrite(this, fd, data, offset)

        def noted(real: Callable[..., None]) -> Callable[..., None]:
            def call(this: Any, fd: int) -> None:
                real(this, fd)
                self._writes.pop(self._file(fd), None)

            return call

        files.Files.pwrite = noted_pwrite  # type: ignore[method-assign]
        files.Files.sync, files.Files.sync_all = noted(sync), noted(sync_all)  # type: ignore[method-assign]

    def _file(self, fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        key = status.st_dev, status.st_ino
        if key not in self._kept:
            self._kept[key] = os.dup(fd)
        return key

    def strike(self, *_: Any) -> None:
        """Undo, newest first, every write to a segment's records that no sync has covered; then die."""
        for key, writes in self._writes.items():
            if os.readlink(f"/proc/self/fd/{self._kept[key]}").endswith(".seg"):
                for offset, old in reversed(writes):
                    if offset >= fmt.DATA_OFFSET:
                        os.pwrite(self._kept[key], old.ljust(1, b"\0"), offset)
        die()


BENDS: dict[str, Callable[[], None]] = {
    "publish_early": publish_early, "publish_first": publish_first, "forget_sent": forget_sent, "skip_sync": skip_sync,
}  # fmt: skip


def main(directory: str, text: str) -> None:
    """Serve ``directory`` as ``SPEC`` says."""
    spec = json.loads(text)
    if spec.get("power_cut"):
        cut = PowerCut()
        signal.signal(signal.SIGUSR1, cut.strike)
    if spec.get("general"):
        writer.straight_round = lambda *_: lambda: False  # type: ignore[assignment]
    if spec.get("bend"):
        BENDS[spec["bend"]]()
    start = arm(*spec["die"]) if spec.get("die") else None
    if start is not None and spec.get("die_at_start"):
        start()

    def ready(_: writer.Writer) -> None:
        if start is not None and not spec.get("die_at_start"):
            start()
        print("serving", flush=True)

    config = LogConfig.from_dict(spec["config"]) if spec.get("config") else None
    writer.serve(directory, config, linger=bool(spec.get("linger")), interrupt=False, on_ready=ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
