"""How long the defaults take to reach what the reference's settings end at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from runs import LINEAR, Curve, curve, distil, percent

from synthicl.core.files import write_whole
from synthicl.report.page import render
from synthicl.report.style import CYCLE, new_figure
from synthicl.report.table import Table

REFERENCE = "lgm_reference"
GRID = "--trainer.val_check_interval=50"
PROBES = ("tabicl", "linear")


def measure(folder: Path, flags: list[str], procedures: list[str], seeds: int) -> dict[str, Any]:
    """Make all runs, seed by seed so that all procedures see the same machine, and read their curves."""
    runs: dict[str, list[Path]] = {name: [] for name in [*procedures, REFERENCE]}
    for seed in range(seeds):
        for name, made in runs.items():
            settings = [*flags, *LINEAR, GRID, f"--model.objective={name}", f"--model.seed={seed}"]
            made.append(distil(folder / name / f"seed_{seed}", settings))
    curves = {name: [curve(run) for run in made] for name, made in runs.items()}
    return summary(curves) | {"flags": flags}


def summary(curves: dict[str, list[Curve]]) -> dict[str, Any]:
    """What the curves say of each procedure, and the curves."""
    goal = {probe: mean_accuracy(curves[REFERENCE], probe)[-1] for probe in PROBES}
    whole = float(np.mean([found.seconds[-1] for found in curves[REFERENCE]]))
    every = max(made[0].steps[0] for made in curves.values())
    found: dict[str, Any] = {"seeds": len(curves[REFERENCE]), "goal": goal, "reference_seconds": whole, "every": every}
    found["procedures"] = {
        name: _procedure([on_grid(each, every) for each in made], goal, whole) for name, made in curves.items()
    }
    found["curves"] = {name: [of_seed._asdict() for of_seed in made] for name, made in curves.items()}
    return found


def on_grid(found: Curve, every: int) -> Curve:
    """The validations every so many steps, and the last: who is asked more often is seen to be there sooner."""
    kept = [place for place, step in enumerate(found.steps) if step % every == 0 or step == found.steps[-1]]
    accuracy = {probe: [values[place] for place in kept] for probe, values in found.accuracy.items()}
    return Curve([found.steps[place] for place in kept], [found.seconds[place] for place in kept], accuracy)


def mean_accuracy(curves: list[Curve], probe: str) -> np.ndarray:
    """Mean over seeds at each validation."""
    mean: np.ndarray = np.mean([found.accuracy[probe] for found in curves], 0)
    return mean


def _procedure(curves: list[Curve], goal: dict[str, float], whole: float) -> dict[str, Any]:
    """Where its mean over seeds first reaches the goal, for each probe and for both at once."""
    seconds = np.mean([found.seconds for found in curves], 0)
    above = {probe: mean_accuracy(curves, probe) >= goal[probe] for probe in PROBES}
    above["both"] = above["tabicl"] & above["linear"]
    reached = {}
    for probe, there in above.items():
        first = int(np.argmax(there)) if there.any() else None
        reached[probe] = (
            None
            if first is None
            else {"step": curves[0].steps[first], "seconds": seconds[first], "ratio": whole / seconds[first]}
        )
    last = {probe: [found.accuracy[probe][-1] for found in curves] for probe in PROBES}
    return {"reached": reached, "last": last, "steps": curves[0].steps[-1], "seconds": float(seconds[-1])}


def table(found: dict[str, Any]) -> Table:
    """One row for each procedure."""

    def cell(reached: dict[str, float] | None) -> str:
        return "not" if reached is None else f"{reached['seconds']:.1f} s, {reached['ratio']:.1f} x"

    body = []
    for name, procedure in found["procedures"].items():
        last = [percent(procedure["last"][probe]) for probe in PROBES]
        reached = [cell(procedure["reached"][probe]) for probe in ("tabicl", "linear", "both")]
        body.append([name, str(procedure["steps"]), f"{procedure['seconds']:.0f}", *last, *reached])
    header = ["procedure", "steps", "s", "TabICL at the end", "linear at the end"]
    header += ["reaches the reference's TabICL", "linear", "both at once"]
    return Table("", header, body)


def plot(found: dict[str, Any], title: str, path: Path) -> None:
    """Accuracy on val against time, each seed a thin line and their mean a thick one."""
    figure, _ = new_figure(11, 4.5)
    figure.clear()
    left, right = figure.subplots(1, 2)
    for axes, probe, words in ((left, "tabicl", "TabICL"), (right, "linear", "linear probe")):
        for color, (name, runs) in zip(CYCLE, found["curves"].items(), strict=False):
            for run in runs:
                accuracy = [100 * value for value in run["accuracy"][probe]]
                axes.plot(run["seconds"], accuracy, color=color, alpha=0.3, lw=0.8)
            seconds = np.mean([run["seconds"] for run in runs], 0)
            mean = 100 * np.mean([run["accuracy"][probe] for run in runs], 0)
            axes.plot(seconds, mean, color=color, lw=1.8, marker=".", label=f"{name}, mean of {len(runs)} seeds")
        axes.axhline(100 * found["goal"][probe], color="black", lw=1, ls=":", label=f"{REFERENCE} at its end")
        axes.set_xscale("log")
        axes.set_xlabel("seconds since the start of the fit, validations left out")
        axes.set_ylabel("accuracy on val in %")
        axes.set_title(f"{words}, {title}", fontsize=10, loc="left")
        axes.grid(alpha=0.3, which="both")
    figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    write_whole(path, lambda target: target.write_bytes(render(figure, "png")))
