"""What a dead writer left in shared memory, as far as it can be believed."""

from __future__ import annotations

from . import format as fmt
from . import layout, shm
from .control import Control, open_control
from .errors import VersionMismatch
from .files import join
from .manifest import Manifest, shm_folder
from .ring import RingReader
from .types import PersistenceStrategy


class Remains:
    """Control block and ring of the generation in the manifest, as far as they can be believed.

    ``commit_index`` lies below the first entry that repair has given up: what is behind a hole must be replaceable.
    Raises :class:`VersionMismatch` if only the memory of another release knows what was acknowledged.
    """

    def __init__(self, directory: str, manifest: Manifest) -> None:
        folder = shm_folder(directory, manifest)
        self.control: Control | None = None
        self.ring: RingReader | None = None
        self.same_boot, self.published, self.durable = True, 0, 0
        self.trusted = self.failed = False
        self.commit_index = 0
        try:
            control = open_control(join(folder, fmt.control_name(manifest.generation)))
        except (FileNotFoundError, ValueError):
            return
        except VersionMismatch:
            if manifest.strategy == PersistenceStrategy.MEM_FIRST and not manifest.settled:
                raise  # what it acknowledged may be in its ring alone
            return  # the files hold all of it, and say so themselves
        self.control = control
        words = control.snapshot()
        self.same_boot = (words["boot_id_high"], words["boot_id_low"]) == shm.boot_id() != (0, 0)
        mine = words["log_id"] == manifest.log_id and words["generation"] == manifest.generation
        if not (mine and self.same_boot):
            return
        self.durable, self.published = words["durable"], words["published"]
        # A repair may have been cut short: it lowers what the manifest says, and cannot lower what this block says.
        before = [row[0] - 1 for row in manifest.live_lost() if row[0] <= row[1]]
        self.commit_index = min([words["commit_index"], *before])
        self.failed = words["state"] == layout.STATE_FAILED
        try:
            mapping = shm.open_file(join(folder, fmt.ring_name(manifest.generation)))
        except (FileNotFoundError, ValueError):
            return
        if mapping.length != words["ring_bytes"]:
            mapping.close()
            return
        self.ring = RingReader(mapping, control.floor)
        self.trusted = True

    def close(self) -> None:
        """Unmap."""
        if self.ring is not None:
            self.ring.close()
        if self.control is not None:
            self.control.close()


def last_term_of_the_dead(directory: str, manifest: Manifest) -> int:
    """Term of the last entry that a dead writer of this boot showed; 0 if nothing is left of it."""
    old = Remains(directory, manifest)
    try:
        return int(old.control.snapshot()["last_term"]) if old.control is not None and old.published else 0
    finally:
        old.close()
