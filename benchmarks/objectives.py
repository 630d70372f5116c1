"""Distil with several objectives, numbers of images and seeds, and put what they reached into one page.

    .venv/bin/python benchmarks/objectives.py                     # on digits, one image per class, five seeds
    .venv/bin/python benchmarks/objectives.py --objectives lgm ridge in_context in_context_lgm --ipc 2 5 10 --seeds 3 \
        --page docs/objectives-digits-ipc.md
    .venv/bin/python benchmarks/objectives.py --objectives lgm lgm_reference  # the public code's settings (slow)
    .venv/bin/python benchmarks/objectives.py --objectives lgm "lgm_reference --model.views.number=3"  # own flags
    .venv/bin/python benchmarks/objectives.py --first_seed 100  # seeds that nobody has looked at
    .venv/bin/python benchmarks/objectives.py --split_seeds 1 2 3 4 5 --first_seed 100  # the split varies as well
    .venv/bin/python benchmarks/objectives.py --name photographs -c configs/data/folder.yaml --data.root=my/images

Flags that are not the script's go to train.py. A seed varies the optimisation only: backbone, split, preprocessing and
TabICL are the same. With --split_seeds each draw is a pair of its own: a split (val, and test where the dataset fixes
none) and a seed. Runs and scores that are there already are not made again.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from runs import curve, distil, machine, percent
from scipy.stats import ttest_1samp

from synthicl.cli.evaluate import evaluate
from synthicl.core.files import write_whole
from synthicl.core.statistics import Comparison, mean_accuracy, paired_difference, t_interval
from synthicl.core.words import words, words_of_objective
from synthicl.report.page import render
from synthicl.report.style import CYCLE, NARROW, legend_below, new_figure, set_title
from synthicl.report.table import Table, difference_cells, markdown, percent_interval
from synthicl.studies.compare import COMPARE
from synthicl.studies.compare.lines import Line, lines
from synthicl.studies.results import Results, Row, probe_title
from synthicl.studies.transfer import TRANSFER

REAL = ("random", "centroid", "herding", "class_mean", "all")
OBJECTIVES = ["lgm", "lgm_trained_heads", "ridge", "in_context", "in_context_lgm"]
MARKERS = "os^"  # of a frontier: the next one where colours begin again
JUDGE = "mini_1"  # a TabICL of another pre-training seed, which was never in the loop


def score(run: Path | str, options: argparse.Namespace, ipc: int, real: bool) -> Results:
    """Score a run's context sets, or with ``real`` the real contexts of equal size."""
    reference = options.linear_reference and ipc == 1 and not real
    probes = ["tabicl", "linear", "ridge", "knn", *(["linear_reference"] if reference else [])]
    settings = {"contexts": REAL if real else (), "probes": probes, "checkpoints": [JUDGE], "reference_seeds": 1}
    if real:
        settings |= {"ipc": ipc, "random_draws": options.random_draws}
    folder = Path(run) if options.split_seeds else options.output_dir / options.name
    return evaluate(COMPARE, run, {}, settings, folder / f"real_{ipc}" if real else None)


def cell(results: Results, rows: list[Row]) -> str:
    """Accuracy with its interval over queries and draws or seeds."""
    return percent_interval(mean_accuracy(results.correct(rows))) if rows else ""


def contexts(results: Results, objectives: list[str], ipc: int) -> dict[Line, list[Row]]:
    """What stands in the lines of a table, in their order; builders that chose the same rows are one, as in compare."""
    found = lines(results.of("compare"), "test")
    order = [*(name for name in REAL if name != "all"), *objectives, "all"]
    kept = sorted((key for key in found if key.ipc == ipc), key=lambda key: order.index(key.context))
    return {key: found[key] for key in kept}


def name_of(key: Line, rows: list[Row], objectives: list[str]) -> str:
    """A context in words; an objective by the name that its flag has, with its losses in words."""
    return (
        f"{key.context}: {words_of_objective(rows[0].run.get('objective', ''))}"
        if key.context in objectives
        else key.name
    )


def tables(results: Results, objectives: list[str], ipc: int) -> list[Table]:
    """Accuracies of all contexts with all probes, and the paired differences between objectives that were named."""
    test = results.select(command="compare", split="test", ipc=ipc)
    probes = sorted({(row.probe, row.preprocessing) for row in test}, key=lambda p: (not p[0].startswith("tabicl"), p))
    found = contexts(results, objectives, ipc)
    body = []
    for key, rows in found.items():
        count = len({(row.seed, row.draw) for row in rows})
        each = [[row for row in rows if (row.probe, row.preprocessing) == probe] for probe in probes]
        name = name_of(key, rows, objectives) + (f" ({count})" if count > 1 else "")
        body.append([name, str(rows[0].n_context), *(cell(results, r) for r in each)])
    queries = test[0].n_query
    header = [
        "context",
        "rows",
        *(probe_title(*probe) for probe in probes),
    ]
    accuracy = Table(f"Accuracy on test in %, {ipc} per class, {queries} queries, 95 % intervals", header, body)

    matching = next((name for name in objectives if name.startswith("lgm")), "lgm")
    others = (matching, "centroid", "class_mean", "all")
    pairs = [(name, other) for name in objectives for other in others if name != other]
    named = {key.context: key.name for key in found}
    pairs = [(name, other) for name, other in pairs if other in named]
    correct = {
        key.context: results.correct([row for row in rows if row.probe == "tabicl"]) for key, rows in found.items()
    }
    comparisons = [paired_difference(correct[name], correct[other]) for name, other in pairs]
    cells = difference_cells(comparisons)
    body = [[f"{name} - {named[other]}", *points] for (name, other), points in zip(pairs, cells, strict=True)]
    header = ["difference", "points [95 % interval]", "p (Holm)"]
    return [accuracy, Table(f"Points on test with TabICL, {ipc} per class, paired on the queries", header, body)]


def nested_tables(results: Results, objectives: list[str], ipc: int) -> list[Table]:
    """Means over (split, seed) pairs with Student's interval; differences are paired by pair, and Holm-corrected.

    Each pair has its own queries, so pairs are the draws and queries are not resampled.
    """
    test = results.select(command="compare", split="test", ipc=ipc)
    probes = sorted({(row.probe, row.preprocessing) for row in test}, key=lambda p: (not p[0].startswith("tabicl"), p))
    found = contexts(results, objectives, ipc)

    def accuracies(name: str, probe: tuple[str, str]) -> np.ndarray:
        """By pair, which its seed names; the mean over draws of random contexts."""
        by_seed: dict[int, list[float]] = {}
        for row in test:
            if row.context == name and (row.probe, row.preprocessing) == probe:
                by_seed.setdefault(row.seed, []).append(row.accuracy)
        return np.array([np.mean(by_seed[seed]) for seed in sorted(by_seed)])

    body = []
    for key, rows in found.items():
        each = [accuracies(key.context, probe) for probe in probes]
        cells = [percent(list(values)) if len(values) else "" for values in each]
        body.append([name_of(key, rows, objectives), str(rows[0].n_context), *cells])
    pairs = len({row.seed for row in test})
    header = ["context", "rows", *(probe_title(*probe) for probe in probes)]
    title = f"Accuracy on test in %, {ipc} per class, mean of {pairs} (split, seed) pairs, Student's 95 % intervals"
    accuracy = Table(title, header, body)

    named = {key.context: key.name for key in found}
    compared = [(name, other) for name in objectives for other in ("centroid", "class_mean", "all")]
    differences = [accuracies(name, probes[0]) - accuracies(other, probes[0]) for name, other in compared]
    comparisons = [Comparison(t_interval(values), float(ttest_1samp(values, 0).pvalue)) for values in differences]
    body = [
        [f"{name} - {named[other]}", *points]
        for (name, other), points in zip(compared, difference_cells(comparisons), strict=True)
    ]
    header = ["difference", "points [95 % interval]", "p (Holm)"]
    return [accuracy, Table(f"Points on test with TabICL, {ipc} per class, paired by (split, seed)", header, body)]


def transfer_table(results: Results, objectives: list[str], backbone: str, ipc: int) -> Table:
    """What the images are worth where another backbone sees them."""
    test = results.select(command="transfer", split="test", ipc=ipc)
    body = []
    for name in [*(name for name in REAL if any(row.context == name for row in test)), *objectives]:
        rows = [row for row in test if row.context == name]
        count = len({(row.seed, row.draw) for row in rows})
        cells = [cell(results, [row for row in rows if row.probe == probe]) for probe in ("tabicl", "linear")]
        name = name_of(Line(name, "", rows[0].ipc), rows, objectives)
        body.append([f"{name} ({count})" if count > 1 else name, *cells])
    header = ["context", probe_title("tabicl", test[0].preprocessing), probe_title("linear", "")]
    title = f"Seen by {backbone}: accuracy on test in %, {ipc} per class, {test[0].n_query} queries, 95 % intervals"
    return Table(title, header, body)


def plot(runs: dict[str, list[Path]], results: Results, path: Path, ipc: int) -> str:
    """Accuracy on val against time, every seed a line; returns the picture in words."""
    figure, axes = new_figure()
    ends = []
    for color, (objective, folders) in zip(CYCLE, runs.items(), strict=False):
        last = [100 * curve(run).accuracy["tabicl"][-1] for run in folders]
        ends.append(f"{objective} ends at {min(last):.1f} to {max(last):.1f} %")
        for number, run in enumerate(folders):
            label = f"{objective}, {len(folders)} seeds" if number == 0 else None
            found = curve(run)
            accuracy = [100 * value for value in found.accuracy["tabicl"]]
            axes.plot(found.seconds, accuracy, color=color, alpha=0.7, lw=1.2, marker=".", label=label)
    for style, name in (("--", "all"), (":", "class_mean")):
        row = results.select(split="val", context=name, probe="tabicl", ipc=ipc)[0]
        axes.axhline(100 * row.accuracy, color="black", lw=1, ls=style, label=f"{words(name)}, {row.n_context} rows")
    axes.set_xlabel(f"seconds since the start of the fit, validations left out ({torch.get_num_threads()} thread(s))")
    axes.set_ylabel(f"TabICL's accuracy on val in %, {row.n_query} queries")
    axes.set_title(f"{ipc} image(s) per class", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    write_whole(path, lambda target: target.write_bytes(render(figure, "png")))
    return f"TabICL's accuracy on val against seconds, a line for each seed: {', '.join(ends)}."


def plot_frontier(results: Results, objectives: list[str], backbone: str, path: Path, ipc: int) -> None:
    """What a context is worth to TabICL against what it is worth to a linear probe, and to another backbone."""
    test = results.select(split="test", ipc=ipc)
    sides = {
        "logistic regression": [row for row in test if (row.command, row.probe) == ("compare", "linear")],
        f"TabICL, embedded by {backbone}": [row for row in test if (row.command, row.probe) == ("transfer", "tabicl")],
    }
    figure, _ = new_figure(NARROW, 8.0)
    figure.clear()
    for axes, (name, side) in zip(figure.subplots(2, 1), sides.items(), strict=True):
        for number, (key, found) in enumerate(contexts(results, objectives, ipc).items()):
            up = [row for row in side if row.context == key.context]
            if not up:  # all training images are shown to no other backbone
                continue
            x, y = (
                100 * np.array(mean_accuracy(results.correct(rows)))
                for rows in ([row for row in found if row.probe == "tabicl"], up)
            )
            ends = [[[at - low], [high - at]] for at, low, high in (x, y)]
            marker, color = MARKERS[number // len(CYCLE) % len(MARKERS)], CYCLE[number % len(CYCLE)]
            axes.errorbar(x[0], y[0], ends[1], ends[0], fmt=marker, ms=5, lw=0.8, color=color, label=key.name)
        axes.set_xlabel("TabICL's accuracy on test in %")
        axes.set_ylabel(f"accuracy on test in %,\n{name}")
        axes.grid(alpha=0.3)
    set_title(figure.axes[0], f"{ipc} image(s) per class, {test[0].n_query} queries; bars are 95 % intervals")
    legend_below(figure, *figure.axes)
    write_whole(path, lambda target: target.write_bytes(render(figure, "png")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="digits", help="of the dataset, for folders and titles")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--ipc", type=int, nargs="+", default=[1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0, help="seeds count from here: fresh ones for a final table")
    parser.add_argument(
        "--split_seeds", type=int, nargs="+", help="a split for each draw in place of --seeds: intervals over both"
    )
    parser.add_argument("--random_draws", type=int, default=20)
    parser.add_argument("--linear_reference", action=argparse.BooleanOptionalAction, default=True, help="slow")
    parser.add_argument("--transfer", help="a backbone that is shown the images as well")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--page", type=Path, help="docs/objectives-NAME.md unless said otherwise")
    options, flags = parser.parse_known_args()
    options.page = options.page or Path(f"docs/objectives-{options.name}.md")
    flags = flags or [
        "-c",
        "configs/data/digits.yaml",
        "--tabicl.preprocessing=rotated16",
    ]  # val's choice, docs/bundled.md

    if options.split_seeds and options.transfer:
        parser.error("--split_seeds: not together with --transfer, whose table has one split.")
    splits = options.split_seeds or [None] * options.seeds
    pairs = [(split, options.first_seed + draw) for draw, split in enumerate(splits)]
    together, parts, seconds = Results(), [], []
    for ipc in options.ipc:
        runs: dict[str, list[Path]] = {}
        for objective in options.objectives:
            for split, seed in pairs:
                name, *own = objective.split()
                folder = options.output_dir / options.name / "_".join([name, *own]) / f"ipc_{ipc}" / f"seed_{seed}"
                varied = [f"--model.objective={name}", *own, f"--model.ipc={ipc}", f"--model.seed={seed}"]
                if split is not None:
                    folder, varied = folder / f"split_{split}", [*varied, f"--data.split_seed={split}"]
                runs.setdefault(objective, []).append(distil(folder, [*flags, *varied]))
            for run in runs[objective]:
                add(together, score(run, options, ipc, real=False).of("compare"), {"synthetic": objective}, "last")
                if options.transfer:
                    settings = {"backbones": [options.transfer], "random_draws": options.random_draws}
                    found = evaluate(TRANSFER, run, {}, settings).of("transfer")
                    own = next(row.context for row in found.rows.values() if row.checkpoint == "last")
                    add(together, found, {own: objective}, "last")
                    # Real contexts are the same for all runs.
                    if not together.select(command="transfer", context="class_mean", ipc=ipc):
                        add(together, found, {name: name for name in REAL}, "")
            times = [curve(run).seconds[-1] for run in runs[objective]]
            seconds.append([objective, str(ipc), f"{min(times):.0f} to {max(times):.0f}"])
        first = next(iter(runs.values()))
        for run in first if options.split_seeds else first[:1]:  # real contexts are the same for all runs of a split
            add(together, score(run, options, ipc, real=True).of("compare"), {name: name for name in REAL}, "")
        picture = options.page.parent / "images" / f"{options.page.stem}-{ipc}.png"
        in_words = plot(runs, together, picture, ipc)
        make = nested_tables if options.split_seeds else tables
        parts += [f"### {table.title}\n\n{markdown(table)}" for table in make(together, options.objectives, ipc)]
        parts.append(f"![{in_words}](images/{picture.name})")
        if options.transfer:
            table = transfer_table(together, options.objectives, options.transfer, ipc)
            parts.append(f"### {table.title}\n\n{markdown(table)}")
            picture = options.page.parent / "images" / f"{options.page.stem}-{ipc}-frontier.png"
            plot_frontier(together, options.objectives, options.transfer, picture, ipc)
            parts.append(
                "![Two scatter plots, a mark for each context: TabICL's accuracy on test across; up, above, that of "
                f"logistic regression, below, TabICL's with {options.transfer}. The numbers stand in the tables.]"
                f"(images/{picture.name})"
            )
    parts.append(
        f"### Seconds from the start of the fit, validations left out ({machine()})\n\n"
        + markdown(Table("", ["objective", "images per class", "seconds"], seconds))
    )
    command = shlex.join([".venv/bin/python", "benchmarks/objectives.py", *sys.argv[1:]])
    ran = f"seeds {pairs[0][1]} to {pairs[-1][1]} of the optimisation, one backbone and one split"
    if options.split_seeds:
        ran = f"the (split, seed) pairs {', '.join(map(str, pairs))} and one backbone"
        ran += (
            ". Splits of one dataset share images, so the pairs are not quite independent, and a bundled backbone was "
            "trained without labels on the training images of split 0, some of which are in other splits' test"
        )
    judge = probe_title(f"tabicl {JUDGE}", "")
    about = (
        f"Written by `{command}`. Every objective ran with {ran}. The number in brackets after a context is its number "
        f"of seeds or draws. `{judge}` is a TabICL of another pre-training seed. It was never in the loop."
    )
    options.page.write_text(
        f"# Objectives on {options.name}\n\n{about}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8"
    )
    print(f"{options.page} written.")


def add(together: Results, found: Results, names: dict[str, str], checkpoint: str) -> None:
    """Put the rows of some contexts together with others, under new names."""
    for row in found.rows.values():
        if row.context in names and row.checkpoint == checkpoint:
            renamed = replace(row, context=names[row.context], checkpoint="")
            together.add(renamed, found.predictions[row.key], found.labels[row.split])


if __name__ == "__main__":
    main()
