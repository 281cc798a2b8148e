"""A view: what one generation of the writer shows, mapped read-only, and readable after that generation ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import shm
from raftlog_mp.config import MIB
from raftlog_mp.control import open_control
from raftlog_mp.errors import ConfigError
from raftlog_mp.journal import Journal
from raftlog_mp.view import View

from .journals import append, commit, kill, open_log, put, stop


def welcome(journal: Journal) -> dict[str, Any]:
    """What the writer of this journal greets with."""
    return {
        "folder": journal.folder, "generation": journal.generation, "log_id": journal.log_id,
        "uuid": journal.manifest.uuid, "config": journal.config.as_dict(),
    }  # fmt: skip


def shown(view: View) -> tuple[int, int]:
    """The frontiers: last index, commit word."""
    return view.control.last_index.load(shm.ACQUIRE), view.control.published.load(shm.ACQUIRE)


def test_it_names_what_the_welcome_said(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", max_entry_bytes=1000)
    view = View(welcome(journal))
    assert (view.folder, view.generation, view.log_id) == (journal.folder, 1, journal.log_id)
    assert view.uuid == journal.manifest.uuid and view.config == journal.config
    assert view.control.log_id.load(shm.ACQUIRE) == journal.log_id
    assert view.ring.ring_bytes == journal.config.ring_bytes
    stop(journal)


def test_it_shows_what_the_writer_publishes_and_nothing_before(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    view = View(welcome(journal))
    before, position = shown(view), journal.end
    put(journal, b"on its way")
    assert shown(view) == before == (0, position)
    commit(journal)
    assert shown(view) == (1, journal.end)
    found = view.ring.record(position)
    assert found is not None and found[1] == b"on its way" and found[0][9] == 1
    stop(journal)


def test_the_rings_floor_is_the_one_in_the_control_block(log_dir: str) -> None:
    journal, _ = open_log(log_dir, segment_bytes=8 * MIB)
    view, position = View(welcome(journal)), journal.end
    append(journal, b"the first")
    assert view.ring.record(position) is not None
    while journal.end < position + MIB:
        append(journal, bytes(100_000))
    assert view.ring.record(position) is None
    assert view.ring.copy(position, position + 1) is None
    stop(journal)


def test_everything_is_mapped_read_only(log_dir: str) -> None:
    """A stray store of a client faults; the log is unharmed."""
    journal, _ = open_log(log_dir)
    kill(journal)  # the writer's own mappings are gone
    view = View(welcome(journal))
    modes = {
        os.path.basename(line.split()[-1]): line.split()[1]
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if journal.folder in line
    }  # fmt: skip
    assert modes == {fmt.control_name(1): "r--s", fmt.ring_name(1): "r--s"}
    assert shown(view)[0] == 0


def test_a_view_stays_readable_when_the_next_generation_has_removed_its_files(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    position = journal.end
    append(journal, b"kept")
    old, before = View(welcome(journal)), welcome(journal)
    assert old.control.superseded_by.load(shm.ACQUIRE) == 0
    version = old.control.catalog_version.load(shm.ACQUIRE)
    kill(journal)
    newer, _ = open_log(log_dir)
    assert old.control.superseded_by.load(shm.ACQUIRE) == newer.generation == 2
    assert old.control.catalog_version.load(shm.ACQUIRE) != version, "the word that every read looks at"
    assert shown(old)[0] == 1 and old.ring.record(position)[1] == b"kept"  # type: ignore[index]
    with pytest.raises(FileNotFoundError):
        View(before)

    view = View(welcome(newer))
    append(newer, b"of the newer")
    assert shown(view)[0] == 2 and shown(old)[0] == 1
    assert view.control.catalog_version.load(shm.ACQUIRE) != old.control.catalog_version.load(shm.ACQUIRE)
    assert view.ring.record(position) is None, "what was recovered is in the files only"
    stop(newer)


def test_an_incomplete_control_block_is_no_view(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    kill(journal)
    control = open_control(os.path.join(journal.folder, fmt.control_name(1)), writable=True)
    control.magic.store(0, shm.RELEASE)
    control.close()
    with pytest.raises(ValueError, match="incomplete"):
        View(welcome(journal))


def test_no_ring_no_view(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    kill(journal)
    os.unlink(os.path.join(journal.folder, fmt.ring_name(1)))
    with pytest.raises(FileNotFoundError):
        View(welcome(journal))


def test_settings_that_cannot_be_are_named(log_dir: str) -> None:
    """A writer of another version may have settings that this one does not accept."""
    journal, _ = open_log(log_dir)
    stop(journal)
    words = welcome(journal)
    words["config"] = {**words["config"], "ring_bytes": 7}
    with pytest.raises(ConfigError) as refused:
        View(words)
    assert refused.value.field == "ring_bytes"
