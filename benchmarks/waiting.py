"""What synthicl sets when it is imported: a step with it and without, idle and beside a job that keeps one core busy.

A thread that waits by spinning takes the core from the thread that it waits for, one that sleeps is slow to wake:
synthicl has OpenMP's threads spin for a short time before they sleep. And glibc gives the memory of a step back, to
fault it in again at the next one: synthicl has it kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import synthicl  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP
import lightning as L
import numpy as np
import torch
from shapes import FullSize, distiller, fit, private_cache, random_backbone

from synthicl.backbones import create_backbone
from synthicl.report.table import Table

SET = ("OMP_", "GOMP_", "MALLOC_")
BUSY = "while True: pass"
POLICIES = {
    "synthicl": {},
    "spinning": {"OMP_WAIT_POLICY": "active"},
    "sleeping": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    # 0 is what glibc has; that it is said makes the package leave glibc as it comes. A threshold would change more.
    "memory given back": {"MALLOC_PERTURB_": "0"},
}


class Clock(L.Callback):
    """Seconds of each step."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        """Nothing is measured yet."""
        self.seconds: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.start)


def one(name: str, views: int, steps: int) -> float:
    """Median seconds of a step in this process, after two to warm up."""
    backbone = create_backbone(name) if name.startswith("efficientnet") else random_backbone(name)
    clock = Clock()
    with private_cache():
        fit(distiller(backbone, views=views, chunk_size=64), 10, steps + 2, [FullSize(), clock])
    return float(np.median(clock.seconds[2:]))


def measure(shapes: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Measure each shape, turn by turn: backbone, views of ten images, steps."""
    found = []
    for name, views, steps in shapes:
        row: dict[str, Any] = {"backbone": name, "views": views, "cores": os.cpu_count()}
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                for policy, variables in POLICIES.items():
                    command = [sys.executable, "-W", "ignore", __file__, name, str(views), str(steps)]
                    environment = {key: value for key, value in os.environ.items() if not key.startswith(SET)}
                    run = subprocess.run(
                        command, check=True, capture_output=True, text=True, env=environment | variables
                    )
                    row[f"{policy}, {'busy' if busy else 'idle'}"] = json.loads(run.stdout.splitlines()[-1])
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
        print(row, flush=True)
        found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """One row for each shape."""
    columns = [name for name in found[0] if name.endswith((", idle", ", busy"))]
    body = [
        [row["backbone"], str(10 * max(row["views"], 1)), *(f"{row[column]:.3f}" for column in columns)]
        for row in found
    ]
    return Table("", ["backbone", "rows", *(f"{column}, s" for column in columns)], body)


if __name__ == "__main__":
    assert synthicl.__version__  # imported for what it sets
    torch.manual_seed(0)
    backbone, *numbers = sys.argv[1:]
    print(json.dumps(one(backbone, *map(int, numbers))))
