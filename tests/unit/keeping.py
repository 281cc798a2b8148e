"""Every byte that repair or a start removes is kept: which are not?"""

from __future__ import annotations

import os
import re

from raftlog_mp import format as fmt

from .journals import snapshot

KEPT = re.compile(r"(.+\.(?:seg|idx|trm)|manifest|hard_state)\.(\d+)(\.\d|\.[0-9a-f]{8})?$")
STEP = 64


def not_kept(before: dict[str, bytes], directory: str, *, endings: tuple[str, ...] = ("",)) -> list[tuple[str, int]]:
    """``(file, offset)`` of bytes that were there ``before`` (zeros aside), are gone, and are not in quarantine."""
    after = snapshot(directory)
    kept: dict[str, list[tuple[int, bytes]]] = {}
    for path, data in after.items():
        found = KEPT.match(os.path.basename(path))
        if path.startswith(fmt.QUARANTINE_NAME) and found:
            kept.setdefault(found[1], []).append((int(found[2]), data))
    missing = []
    for name, old in before.items():
        if os.sep in name or name == fmt.LOCK_NAME or not name.endswith(endings):
            continue
        new, copies = after.get(name, b""), kept.get(name, [])
        for low in range(0, len(old), STEP):
            piece = old[low : low + STEP]
            if piece == new[low : low + STEP] or not piece.strip(b"\0"):
                continue
            missing += [(name, at) for at, byte in enumerate(piece, low) if byte and new[at : at + 1] != bytes([byte])
                        and not any(data[max(at - start, 0) :][:1] == bytes([byte]) and start <= at
                                    for start, data in copies)]  # fmt: skip
    return missing
