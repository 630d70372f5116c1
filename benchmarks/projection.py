"""How much faster than the reference's settings a distillation with a large backbone should be.

Seconds of a step are measured with random weights; how many steps each procedure takes, and where it ends, is from
section ``accuracy``, from another dataset and a small backbone. Hence a projection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from shapes import FullSize, distiller, fit, private_cache, random_backbone
from step import BANK, StepTimes

from synthicl.objectives import LinearGradientMatching
from synthicl.report.table import Table

CLASSES = 10  # Imagenette's, one image for each
BANK_VIEWS = 4
PROCEDURES: dict[str, dict[str, Any]] = {  # configs/data/imagenette.yaml, and the public code's settings on it
    "lgm": {"views": 3, "real": "bank"},
    "lgm_reference": {"views": 10, "real": "online", "heads": 1, "head_std": 0.01, "balanced": False},
}


def measure(backbones: list[tuple[str, str]], steps: int, procedures: dict[str, Any]) -> list[dict[str, Any]]:
    """Time a step of both procedures with each backbone and precision, one after the other."""
    found = []
    with private_cache():
        for name, precision in backbones:
            seconds = {}
            for procedure, settings in PROCEDURES.items():
                ours = {key: settings[key] for key in ("views", "real")}
                objective = LinearGradientMatching(**{key: settings[key] for key in settings if key not in ours})
                module = distiller(random_backbone(name), objective, **ours)
                times = StepTimes()
                bank = FullSize(BANK, BANK_VIEWS) if settings["real"] == "bank" else FullSize()
                fit(module, CLASSES, steps + 1, [bank, times], precision)
                seconds[procedure] = float(np.median(times.steps[1:]))
            runs = {procedure: procedures[procedure]["steps"] for procedure in PROCEDURES}
            found.append({"backbone": name, "precision": precision, "steps": steps, "seconds": seconds, "runs": runs})
            print(found[-1], flush=True)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """One row for each backbone and precision."""
    body = [
        [
            *(one["backbone"], one["precision"]),
            *(f"{one['seconds'][procedure]:.4g}" for procedure in PROCEDURES),
            f"{ratio(one['seconds']):.1f}",
            *(str(one["runs"][procedure]) for procedure in PROCEDURES),
            f"{ratio(one['seconds']) * ratio(one['runs']):.0f} x",
        ]
        for one in found
    ]
    header = ["backbone", "precision", *(f"step of {procedure}, s" for procedure in PROCEDURES), "ratio"]
    header += ["steps of lgm", "of lgm_reference", "projected, whole runs"]
    return Table("", header, body)


def ratio(of: dict[str, float]) -> float:
    """How many times the reference has of what `lgm` has."""
    return of["lgm_reference"] / of["lgm"]
