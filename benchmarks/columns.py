"""How many columns TabICL should see of photographs, asked on further groceries: writes docs/columns.md.

    .venv/bin/python benchmarks/columns.py --data.root=data/GroceryStoreDataset

Each task has ten classes: those of groceries-tuning, and tens drawn from the classes left that have 15 training and 15
official test photographs. All official training photographs train, and the official test photographs are the queries:
they choose. Classes of groceries and groceries-hard are in no task. A quarter of an hour on one core.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from runs import machine

from synthicl.backbones import create_backbone
from synthicl.core.settings import of_subject
from synthicl.core.words import words
from synthicl.coresets.class_mean import class_mean
from synthicl.coresets.random import random
from synthicl.data.augmentation import Augmentation
from synthicl.data.datasets.groceries import EASY, HARD, TUNING, dataset_folder, load, read_classes, read_lists
from synthicl.embeddings.bank import embed_clean, embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.in_context import InContext
from synthicl.probes.linear import LinearProbe
from synthicl.probes.score import fit_and_score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.report.table import Table, markdown
from synthicl.studies.rivals import optimise_rows
from synthicl.tabicl.checkpoint import find_checkpoint
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

LEAST = 15  # photographs of a class in training and in test
VIEWS, DRAWS = 4, 5  # augmented views that queries are drawn from, as the recipe has it; random contexts


def tasks(root: Path, count: int) -> list[list[str]]:
    """The classes of each task."""
    folder = dataset_folder(root)
    if folder is None:
        sys.exit(f"--data.root={root}: no train.txt in it. Unpack the Grocery Store Dataset there.")
    classes = read_classes(folder)
    parts = read_lists(folder, classes)
    of_split = [[photograph.of.fine for photograph in parts[split]] for split in ("train", "val", "test")]
    training, test = [*of_split[0], *of_split[1]], of_split[2]
    taken = {*EASY, *HARD, *TUNING}
    left = sorted(
        {of.fine for of in classes.values() if min(training.count(of.fine), test.count(of.fine)) >= LEAST} - taken
    )
    if len(left) < 10 * (count - 1):
        sys.exit(f"--tasks={count}: the classes left are enough for {1 + len(left) // 10}.")
    drawn = [str(name) for name in np.random.default_rng(0).permutation(left)]
    return [list(TUNING), *(drawn[10 * number : 10 * number + 10] for number in range(count - 1))]


def contexts(
    deployment: Deployment, train: LabelledEmbeddings, views: LabelledEmbeddings
) -> dict[str, list[LabelledEmbeddings]]:
    """Contexts of one task by name, each with its draws."""
    objective = InContext(targets="linear")  # as the recipe for photographs has it
    objective.prepare(train, deployment)
    return {
        "random images": [random(train, 1, draw).rows for draw in range(DRAWS)],
        "class means (no images)": [class_mean(train, 1, 0).rows],
        "free rows (no images)": [optimise_rows(objective, train, views, 1, 0)],
        "all training images": [train],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--preprocessings", nargs="+", default=["rotated16", "rotated32", "rotated64"])
    parser.add_argument("--tasks", type=int, default=4, help="tens of classes")
    parser.add_argument("--page", type=Path, default=Path("docs/columns.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    recipe = of_subject("groceries-tuning", {"data.root": str(options.root)})[1]
    backbone, model_path = create_backbone(recipe.backbone.name), find_checkpoint(recipe.tabicl.checkpoint)
    size, augmentation = recipe.image_size, Augmentation(**recipe.augmentation)
    assert size is not None
    found: dict[tuple[str, str], list[float]] = {}
    sizes = []
    for chosen in track(tasks(options.root, options.tasks), "Tasks"):
        data = load(options.root, 0, chosen=chosen, tuning=True)
        embedded = {split: embed_clean(backbone, data.splits[split], size) for split in ("train", "val", "test")}
        train, queries = embedded["train"], embedded["val"].followed_by(embedded["test"])
        z = embed_views(backbone, data.splits["train"], size, augmentation=augmentation, image_size=size, views=VIEWS)
        views = LabelledEmbeddings(z.flatten(0, 1), train.y.repeat(VIEWS))
        sizes.append((len(train.y), len(queries.y)))
        for name in options.preprocessings:
            deployment = Deployment(
                fit_preprocessing(name, train.z, recipe.tabicl.n_estimators), recipe.tabicl.checkpoint, model_path
            )
            for context, draws in contexts(deployment, train, views).items():
                of_draws = [fit_and_score(TabICLProbe(deployment), rows, queries)[1]["accuracy"] for rows in draws]
                found.setdefault((context, name), []).append(float(np.mean(of_draws)))
        linear = fit_and_score(LinearProbe(), train, queries)[1]["accuracy"]
        found.setdefault(("all training images", "logistic regression"), []).append(linear)

    body = [
        [context, words(name), *(f"{100 * value:.1f}" for value in [*values, float(np.mean(values))])]
        for (context, name), values in sorted(found.items(), key=lambda item: item[0][0])
    ]
    header = [
        "context",
        "TabICL's columns, or another probe",
        *(f"task {n}, {q} queries" for n, (_, q) in enumerate(sizes, 1)),
        "mean",
    ]
    command = shlex.join([".venv/bin/python", "benchmarks/columns.py", *sys.argv[1:]])
    training = ", ".join(str(n) for n, _ in sizes)
    about = (
        f"Written by `{command}` ({machine()}). Tasks of ten classes that neither groceries nor groceries-hard has, "
        "EfficientNet-Lite0 at 128 px, one row per class but where all training images are the context "
        f"({training}). The queries, official test photographs, chose the recipe's columns. Random images: {DRAWS} "
        "draws. Free rows: what TabICL in the loop makes of rows that need not be images, one seed."
    )
    table = markdown(Table("", header, body))
    options.page.write_text(
        f"# How many columns TabICL should see of photographs\n\n{about}\n\n### Accuracy in %\n\n{table}\n",
        encoding="utf-8",
    )
    print(f"{options.page} written.")


if __name__ == "__main__":
    main()
