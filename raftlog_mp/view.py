"""What a reader looks at while a writer serves."""

from __future__ import annotations

from typing import Any

from . import format as fmt
from . import shm
from .config import LogConfig
from .control import Control, open_control
from .files import join
from .ring import RingReader
from .terms import TermReader


class View:
    """What a generation of the writer shows: its control block and ring, mapped read-only."""

    def __init__(self, welcome: dict[str, Any]) -> None:
        self.folder: str = welcome["folder"]
        self.generation: int = welcome["generation"]
        self.log_id: int = welcome["log_id"]
        self.uuid: str = welcome["uuid"]
        self.config = LogConfig.from_dict(welcome["config"])
        self.control: Control = open_control(join(self.folder, fmt.control_name(self.generation)))
        self.terms = TermReader(self.folder, self.generation)
        mapping = shm.open_file(join(self.folder, fmt.ring_name(self.generation)))
        self.ring = RingReader(mapping, self.control.floor)
