"""Measure the bundled backbones and the bundled TabICL, and write docs/bundled.md.

    .venv/bin/python benchmarks/bundled.py

Columns and preprocessing are chosen on val; nothing is chosen on test.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from sklearn.neighbors import KNeighborsClassifier
from tabicl import TabICLClassifier
from typing_extensions import override

from synthicl.backbones import create_backbone
from synthicl.coresets.random import random
from synthicl.data.datamodule import ImageDataModule
from synthicl.embeddings.bank import embed_clean
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.linear import LinearProbe
from synthicl.probes.nearest_class_mean import NearestClassMeanProbe
from synthicl.probes.preprocessing_choice import first_of_the_best
from synthicl.probes.probe import Probe
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.report.table import Table, markdown
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing

DRAWS = 20
ROWS = (1, 5, 20, "all")
PREPROCESSINGS = ("rotated8", "pca8", "pca12", "rotated16", "pca16", "rotated32", "pca32", "rotated64", "raw")
MEMBERS = 4  # as in configs/data/digits.yaml


class PlainMember(TabICLProbe):
    """One member of the ensemble: no shuffles, no power transform."""

    @override
    def classifier(self) -> TabICLClassifier:
        return super().classifier().set_params(n_estimators=1, norm_methods="none", feat_shuffle_method="none")


def accuracies(probe: Probe, train: LabelledEmbeddings, queries: LabelledEmbeddings, rows: int | str) -> np.ndarray:
    """Accuracy of each random context of ``rows`` rows per class, (draws,)."""
    drawn = (random(train, int(rows), draw).rows for draw in range(DRAWS)) if rows != "all" else [train]
    result = []
    for context in drawn:
        probe.fit(context)
        result.append(score(probe, queries, context.y.unique().numpy())[1]["accuracy"])
    return np.array(result)


def text(values: np.ndarray) -> str:
    """Mean in percent, and its standard error over draws."""
    mean = f"{100 * values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * values.std(ddof=1) / len(values) ** 0.5:.1f}"


def measure(
    probes: dict[str, Probe], train: LabelledEmbeddings, queries: LabelledEmbeddings
) -> dict[str, list[np.ndarray]]:
    """For each probe the accuracies over draws, one array for each number of context rows."""
    return {
        name: [accuracies(probe, train, queries, rows) for rows in ROWS]
        for name, probe in track(probes.items(), "Scoring")
    }


def body(measured: dict[str, list[np.ndarray]]) -> list[list[str]]:
    """One row per probe, one column per number of context rows."""
    return [[name, *map(text, parts)] for name, parts in measured.items()]


def tabicl(preprocessing: Preprocessing, kind: type[TabICLProbe] = TabICLProbe) -> TabICLProbe:
    """A TabICL probe with the bundled checkpoint."""
    return kind(Deployment(preprocessing, "mini", MINI))


def main() -> None:
    torch.set_num_threads(2)
    data = ImageDataModule("digits")
    embedded: dict[str, dict[str, LabelledEmbeddings]] = {}
    for name in ("mini", "mini_conv"):
        backbone = create_backbone(name)
        embedded[name] = {split: embed_clean(backbone, images, 32) for split, images in data.splits.items()}
    backbone_rows = []
    for name, splits in embedded.items():
        scores = []
        for split in ("val", "test"):
            scores.append(text(accuracies(LinearProbe(), splits["train"], splits[split], "all")))
            knn = KNeighborsClassifier(5).fit(splits["train"].z.numpy(), splits["train"].y.numpy())
            scores.append(text(np.array([knn.score(splits[split].z.numpy(), splits[split].y.numpy())])))
        backbone_rows.append([name, *scores])

    train, val, test = (embedded["mini"][split] for split in ("train", "val", "test"))
    header = ["probe", *(f"{rows} per class" if rows != "all" else "all 899" for rows in ROWS)]
    on_val = measure({name: tabicl(fit_preprocessing(name, train.z, MEMBERS)) for name in PREPROCESSINGS}, train, val)
    chosen = first_of_the_best({name: [part.tolist() for part in parts] for name, parts in on_val.items()})
    preprocessing = fit_preprocessing(chosen, train.z, MEMBERS)
    on_test = measure(
        {
            f"TabICL mini, {chosen}, {MEMBERS} members": tabicl(preprocessing),
            f"TabICL mini, {chosen}, one plain member": tabicl(preprocessing, PlainMember),
            "linear (logistic regression)": LinearProbe(),
            "nearest centroid": NearestClassMeanProbe(),
        },
        train,
        test,
    )
    sizes = {split: len(of_split.y) for split, of_split in embedded["mini"].items()}
    page = f"""# The bundled backbones and TabICL, measured

Written by `.venv/bin/python benchmarks/bundled.py`. Digits: {sizes["train"]} training,
{sizes["val"]} val and {sizes["test"]} test images. Accuracies in %. How the weights were made stands in the JSON file
beside each.

## Backbones, fitted on all training embeddings

{markdown(Table("", ["backbone", "linear, val", "5-NN, val", "linear, test", "5-NN, test"], backbone_rows))}

## TabICL mini on val: which preprocessing

Contexts are random rows of `mini` embeddings. The table shows the mean of {DRAWS} draws ± its standard error.
TabICL has {MEMBERS} members.

{markdown(Table("", header, body(on_val)))}

Val chose **{chosen}**. Of the preprocessings within one standard error of the best mean over the four columns it is
the first; those with few columns stand first.

## TabICL mini on test, with what val chose

{markdown(Table("", header, body(on_test)))}
"""
    Path("docs/bundled.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
