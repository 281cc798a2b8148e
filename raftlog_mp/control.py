"""The control block: one page of words that tells everybody where the log stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import layout, shm


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
    """Map an existing control block.  ``ValueError`` if it is incomplete or of another layout."""
    mapping = shm.open_file(path, writable=writable)
    if mapping.length != layout.CONTROL_BYTES:
        mapping.close()
        raise ValueError(f"{path} has {mapping.length} bytes; a control block has {layout.CONTROL_BYTES}")
    control = Control(mapping)
    # ACQUIRE pairs with the RELEASE of the magic in create_control: the identity words are complete.
    if control.magic.load(shm.ACQUIRE) != layout.CONTROL_MAGIC:
        control.close()
        raise ValueError(f"{path} is incomplete or of another layout version")
    return control
