"""Add two classes to a finished run of eight, against distilling all ten again: accuracy and seconds, as one page.

    .venv/bin/python benchmarks/extend.py                     # digits and groceries, five seeds each, docs/extend.md
    .venv/bin/python benchmarks/extend.py --datasets digits --seeds 1 --page /tmp/extend.md --output_dir /tmp/extend
    .venv/bin/python benchmarks/extend.py --remark "Other jobs ran beside these."

The first eight classes of a dataset are one folder of files, the other two another, in the splits of the dataset. For
each seed a run of the eight is made, then extended by the two (``fit --extend``), and all ten are distilled from the
beginning; the settings are those of configs/data. Flags that are not the script's go to all three. Scored on test. What
is there already is not made again.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from runs import curve, distil, machine, over_seeds

from synthicl.cli.evaluate import evaluate
from synthicl.core.files import write_whole
from synthicl.core.statistics import mean_accuracy, paired_difference
from synthicl.core.words import words
from synthicl.data.datamodule import ImageDataModule
from synthicl.report.table import Table, difference_cells, markdown, percent_interval
from synthicl.studies.compare import COMPARE
from synthicl.studies.results import Results

OLD = 8  # classes of the run that is extended
PROBES = ("tabicl", "linear")
WAYS = {"extend": "8 frozen, 2 optimised", "again": "all 10 optimised"}
COMMAND = ".venv/bin/python benchmarks/extend.py"


class Measured(NamedTuple):
    """What the seeds of a way reached.

    Attributes:
        correct: by probe, which queries of test each seed classifies correctly, (seeds, q), bool.
        seconds: of each seed's fit, validations left out.
    """

    correct: dict[str, np.ndarray]
    seconds: list[float]


def folders(name: str, root: Path, where: Path) -> tuple[Path, Path]:
    """The images of a dataset as files of two folders: its first eight classes, and the others."""
    data = ImageDataModule(name, root)
    places = where / "old", where / "new"
    for split, images in data.splits.items():
        for number, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            folder = places[label >= OLD] / split / data.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(image, Path):
                target = folder / f"{number:05d}{image.suffix.lower()}"
                if not target.exists():
                    shutil.copyfile(image, target)
            elif not (target := folder / f"{number:05d}.png").exists():
                Image.fromarray(image).save(target)
    return places


def measure(name: str, options: argparse.Namespace, flags: list[str]) -> tuple[dict[str, Measured], np.ndarray]:
    """Make the runs of a dataset and score them; also the classes of test's queries, (q,)."""
    base = options.output_dir / name
    old, new = (path.absolute() for path in folders(name, options.root, base / "images"))
    runs: dict[str, list[Path]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        own = ["-c", f"configs/data/{name}.yaml", "--data.name=folder", f"--data.root={old}"]
        own += [f"--model.seed={seed}", "--trainer.enable_progress_bar=false", *flags]
        before = distil(base / "before", own)
        runs["extend"].append(distil(base / "extend", [f"--extend={before}", f"--data.root={new}"]))
        runs["again"].append(distil(base / "again", [*own, f"--data.more={json.dumps([str(new)])}"]))
    found = {}
    for way, made in runs.items():
        correct: dict[str, list[np.ndarray]] = {probe: [] for probe in PROBES}
        for run in made:
            settings: dict[str, Any] = {"contexts": (), "probes": PROBES, "splits": ("test",)}
            results = evaluate(COMPARE, run, {}, settings)
            for probe in PROBES:
                correct[probe].append(of_test(results, probe))
            labels = results.labels["test"]
        stacked = {probe: np.stack(seeds) for probe, seeds in correct.items()}
        found[way] = Measured(stacked, [curve(run).seconds[-1] for run in made])
    return found, labels


def of_test(results: Results, probe: str) -> np.ndarray:
    """Which queries of test the last synthetic images classify correctly, (q,), bool."""
    correct: np.ndarray = results.correct(
        results.select(split="test", context="synthetic", checkpoint="last", probe=probe)
    )[0]
    return correct


def tables(name: str, found: dict[str, Measured], labels: np.ndarray) -> list[Table]:
    """Accuracies and seconds, and the paired differences."""
    parts = {f"{OLD} old classes": labels < OLD, "2 new classes": labels >= OLD, "all": labels >= 0}
    seeds = len(found["extend"].seconds)
    accuracy, differences, cells = [], [], []
    for probe in PROBES:
        for way, measured in found.items():
            correct = measured.correct[probe]
            shares = [percent_interval(mean_accuracy(correct[:, part])) for part in parts.values()]
            accuracy.append([WAYS[way], words(probe), *shares])
        for part, some in parts.items():
            both = [found[way].correct[probe][:, some] for way in WAYS]
            differences.append([words(probe), part])
            cells.append(paired_difference(*both))
    body = [[*row, *cell] for row, cell in zip(differences, difference_cells(cells), strict=True)]
    seconds = [[WAYS[way], f"{np.mean(measured.seconds):.1f}"] for way, measured in found.items()]
    seconds.append(["the first against the second", of_the_time(*(found[way].seconds for way in WAYS))])
    header = ["images", "probe", *(f"{part}, {some.sum()} queries" for part, some in parts.items())]
    return [
        Table(f"{name}: accuracy on test in %, {seeds} seed(s), 95 % intervals", header, accuracy),
        Table(
            f"{name}: extended minus distilled again, paired on the queries",
            ["probe", "classes", "points [95 % interval]", "p (Holm)"],
            body,
        ),
        Table(f"{name}: seconds of a fit, validations left out, mean of seeds", ["images", "seconds"], seconds),
    ]


def of_the_time(first: list[float], second: list[float]) -> str:
    """How long the first takes beside the second, seed by seed: ``0.63 of the time``."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    interval = over_seeds(ratios)
    bounds = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
    return f"{np.mean(ratios):.2f}{bounds} of the time"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--datasets", nargs="+", default=["digits", "groceries"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--root", type=Path, default=Path("data"), help="where groceries lie")
    parser.add_argument("--remark", default="", help="on the load of the machine: stands at the end of the page")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/extend"))
    parser.add_argument("--page", type=Path, default=Path("docs/extend.md"))
    options, flags = parser.parse_known_args()
    parts = []
    for name in options.datasets:
        shown = [f"**{table.title}**\n\n{markdown(table)}" for table in tables(name, *measure(name, options, flags))]
        parts.append(f"## {name}\n\n" + "\n\n".join(shown))
    text = "\n\n".join(
        (
            "# Two classes more\n\nA run of eight classes is extended by two: its eight images stay as they are, and "
            "two are optimised beside them, in half of the steps. Against it, all ten are optimised from the "
            "beginning, in all of the steps, and otherwise with the same settings, seed and real images. The "
            "preprocessing of an extended run is that of the eight classes; distilling again "
            "chooses its own on val, and its seconds hold that choice. A seed varies the optimisation only.",
            *parts,
            f"Made with `{COMMAND}` on {machine()}. The arguments were `{shlex.join(sys.argv[1:]) or 'none'}`. The "
            "run of eight leaves the embeddings of its real images on disk, and both ways find them; those of the "
            "new ones are computed by the extended run and found by the other.",
            *([options.remark] if options.remark else []),
        )
    )
    write_whole(options.page, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    main()
