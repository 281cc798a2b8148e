"""The control block: one page of words that tells everybody where the log stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import layout, shm
from .errors import VersionMismatch
from .layout import HISTORY_OFFSET, HISTORY_SLOTS, NOTHING_REMOVED


class Control:
    """Cells of the control block as attributes (``control.published.load(shm.ACQUIRE)``).

    The writer maps it writable; all others read-only.  See ``layout.CONTROL_WORDS`` for what each word means.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, mapping: shm.Mapping) -> None:
        self._mapping = mapping
        for name, offset in layout.CONTROL_WORDS.items():
            setattr(self, name, mapping.cell(offset))

    def snapshot(self) -> dict[str, int]:
        """Every word by name: for stats and for post-mortems.

        Backwards, so that frontiers are read before those they may not pass: durable_index, then last_index.
        """
        return {name: getattr(self, name).load(shm.ACQUIRE) for name in reversed(layout.CONTROL_WORDS)}

    # ------------------------------------------------------------ changes
    def open_change(self, removed: int) -> None:
        """Begin a truncation, replacement, purge or reset that takes ``removed`` and what follows off the log's end.

        Readers that look for a new catalog wait for the change's end.
        """
        self.tell_removed(removed)  # nobody asks for this slot before the change is complete
        # SEQ_CST, as all words of a change: whoever sees one of the stores that follow sees the odd epoch, too.
        self.epoch.store(self.epoch.load(shm.RELAXED) | 1, shm.SEQ_CST)

    def close_change(self, *, happened: bool) -> None:
        """The change is complete, or nothing came of it."""
        epoch = self.epoch.load(shm.RELAXED)
        if epoch & 1:
            if not happened:
                self.tell_removed(NOTHING_REMOVED)
            self.epoch.store(epoch + 1, shm.SEQ_CST)

    def tell_removed(self, lowest: int) -> None:
        """The lowest index that the change under way, or the next one, takes off the log's end."""
        number = ((self.epoch.load(shm.RELAXED) | 1) + 1) // 2
        self._history(number).store(lowest, shm.SEQ_CST)

    def lowest_removed(self, since_epoch: int, epoch: int) -> int | None:
        """The lowest index that the changes between two even epochs removed; None if that is forgotten."""
        first, last = since_epoch // 2 + 1, epoch // 2
        lowest = min((self._history(n).load(shm.SEQ_CST) for n in range(first, last + 1)), default=NOTHING_REMOVED)
        # Slots are reused: they said what was asked for only if the writer has not come round to the first of them.
        # The slot of the next change may be in use already.
        return None if (self.epoch.load(shm.SEQ_CST) + 1) // 2 + 1 - first >= HISTORY_SLOTS else lowest

    def _history(self, number: int) -> Any:
        return self._mapping.cell(HISTORY_OFFSET + number % HISTORY_SLOTS * 8)

    def close(self) -> None:
        """Unmap; cells raise afterwards."""
        self._mapping.close()


def create_control(path: str, words: dict[str, int]) -> Control:
    """A new control block holding ``words``.  The magic goes in last: whoever sees it sees the rest."""
    control = Control(shm.create_file(path, layout.CONTROL_BYTES))
    for name, value in words.items():
        getattr(control, name).store(value, shm.RELAXED)
    control.magic.store(layout.CONTROL_MAGIC, shm.RELEASE)
    return control


def open_control(path: str, *, writable: bool = False) -> Control:
    """Map an existing control block.

    Raises ``ValueError`` if it is incomplete, :class:`VersionMismatch` if it has the layout of another release.
    """
    mapping = shm.open_file(path, writable=writable)
    magic = mapping.cell(0).load(shm.ACQUIRE) if mapping.length >= 8 else 0
    if magic >> 32 == layout.CONTROL_MAGIC >> 32 and magic != layout.CONTROL_MAGIC:
        mapping.close()
        raise VersionMismatch(
            f"{path} has layout version {magic & 0xFFFFFFFF:#x}; this raftlog_mp reads "
            f"{layout.CONTROL_MAGIC & 0xFFFFFFFF:#x}. A writer of another release left it, and its memory may hold "
            "entries that the files lack: start that release once and stop it in order; nothing was changed."
        )
    if mapping.length != layout.CONTROL_BYTES:
        mapping.close()
        raise ValueError(f"{path} has {mapping.length} bytes; a control block has {layout.CONTROL_BYTES}")
    control = Control(mapping)
    # ACQUIRE pairs with the RELEASE of the magic in create_control: the identity words are complete.
    if control.magic.load(shm.ACQUIRE) != layout.CONTROL_MAGIC:
        control.close()
        raise ValueError(f"{path} is incomplete")
    return control
