"""How TabICL is deployed: one value, built once, for everything that classifies with it or has it in the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synthicl.tabicl.preprocessing import Preprocessing


@dataclass(frozen=True)
class Deployment:
    """TabICL as it will be used.

    Attributes:
        preprocessing: what happens to an embedding before TabICL, with its statistics and the number of members.
        checkpoint: name of the checkpoint, or of the file in its place.
        model_path: where the checkpoint lies.
    """

    preprocessing: Preprocessing
    checkpoint: str
    model_path: Path
