"""What benchmarks share: runs that are made once, curves read from them, and words for the machine."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synthicl.cli.command_line import expand, split, with_defaults
from synthicl.cli.main import train
from synthicl.core.statistics import Interval, t_interval
from synthicl.report.table import percent_interval

LINEAR = (
    "--trainer.callbacks+=synthicl.distillation.callbacks.probe_evaluation.ProbeEvaluation",
    "--trainer.callbacks.probe=linear",
)
"""Flags that put a linear probe beside TabICL at each validation."""


def about(flags: list[str]) -> dict[str, Any]:
    """What identifies a run: flags, and what the configuration files that they name say today."""
    resolved = with_defaults(expand(split(flags)[1]))
    return {"flags": flags, "settings": resolved, "threads": torch.get_num_threads()}


def find(folder: Path, flags: list[str]) -> Path | None:
    """The run in a folder that was made with these flags."""
    for path in folder.glob("*/version_*/bench.json"):  # written last: an interrupted run has none
        if json.loads(path.read_text(encoding="utf-8")) == about(flags):
            return path.parent
    return None


def distil(folder: Path, flags: list[str]) -> Path:
    """Make a run with these flags of train.py, unless it is there; how it was made is kept beside it."""
    if run := find(folder, flags):
        return run
    before = set(folder.glob("*/version_*"))
    code = train(["fit", *flags, f"--output_dir={folder}", "--random_draws=1"])
    if code:
        sys.exit(code)
    (made,) = set(folder.glob("*/version_*")) - before
    (made / "bench.json").write_text(json.dumps(about(flags)) + "\n", encoding="utf-8")
    return made


class Curve(NamedTuple):
    """A run's validations.

    Attributes:
        steps: after how many steps.
        seconds: what they had taken, validations left out.
        accuracy: of each probe on val, in [0, 1].
    """

    steps: list[int]
    seconds: list[float]
    accuracy: dict[str, list[float]]


def curve(run: Path) -> Curve:
    """What a run logged at its validations."""
    events = EventAccumulator(str(run)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("val/") and tag.endswith("_accuracy")]
    accuracy = {
        tag.removeprefix("val/").removesuffix("_accuracy"): [event.value for event in events.Scalars(tag)]
        for tag in tags
    }
    seconds = events.Scalars("train/seconds")
    return Curve([event.step + 1 for event in seconds], [event.value for event in seconds], accuracy)


def over_seeds(values: list[float]) -> Interval | None:
    """The mean with Student's 95 % interval; None for fewer than three values, or equal ones, which say no spread."""
    return t_interval(np.array(values)) if len(values) > 2 and len(set(values)) > 1 else None


def percent(values: list[float]) -> str:
    """The mean of shares in percent, with an interval where `over_seeds` has one."""
    interval = over_seeds(values)
    if interval is None:
        return f"{100 * np.mean(values):.1f}"
    mean, low, high = interval
    return percent_interval(Interval(mean, max(low, 0.0), min(high, 1.0)))  # shares end at 0 and 100 %


def machine() -> str:
    """This machine in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
