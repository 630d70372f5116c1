"""More classes than TabICL has outputs, in the layout of the groceries: distil, compare, predict."""

import csv

import numpy as np
import pytest
from PIL import Image

from synthicl.cli.main import main
from synthicl.studies.compare.parts import parts_of
from synthicl.studies.results import Results

CLASSES = 22
COUNTS = {"train": 3, "val": 2, "test": 2}
TINY = (
    *("-c", "data/groceries-81", "-c", "backbone/mini", "--trainer.accelerator=cpu", "--trainer.max_steps=2"),
    *("--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"),
    *("--model.images.grow_every=1", "--tabicl.preprocessing=rotated4", "--tabicl.n_estimators=1", "--random_draws=1"),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Classes of one colour each, a little noise on it; the first class has twice the training images."""
    dataset = tmp_path_factory.mktemp("data") / "GroceryStoreDataset" / "dataset"
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (CLASSES, 3))
    table = ["name,id,coarse,coarse id,iconic"]
    table += [f"Thing-{label},{label},Things-{label // 2},{label // 2},/x.jpg" for label in range(CLASSES)]
    for split, count in COUNTS.items():
        lines = []
        for label in range(CLASSES):
            for index in range(count * (2 if split == "train" and label == 0 else 1)):
                name = f"{split}/Thing-{label}/{index}.png"
                (dataset / name).parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(colors[label] + random.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(dataset / name)
                lines.append(f"{name}, {label}, {label // 2}")
        (dataset / f"{split}.txt").write_text("\n".join(lines))
    (dataset / "classes.csv").write_text("\n".join(table))
    return dataset.parent


def test_many_classes_from_end_to_end(repository, tmp_path):
    assert main(["fit", *TINY, f"--data.root={repository}", f"--output_dir={tmp_path}"]) == 0
    run = tmp_path / "groceries-81" / "latest"
    assert f"{CLASSES} classes of val with TabICL" in (run / "report.md").read_text(encoding="utf-8")
    assert main(["compare", str(run), "--contexts=all", "--probes=tabicl,linear,knn"]) == 0

    results = Results.load(run).of("compare")
    (classes,) = parts_of(results, "test")
    assert len(classes.names) == CLASSES and classes.sizes.tolist() == [2] * CLASSES
    (row,) = results.select(context="all", probe="linear", split="test")
    assert classes.accuracies(results.correct([row])).mean() == pytest.approx(row.accuracy)  # test is balanced
    assert (run / "figures" / "compare-confusion.png").is_file()
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "compare-confusion.png" in report and "mean over classes, %" in report
    # Val is a fifth of train and val together: two images of the first class, one of the others.
    assert "(train: 1.5)" in report

    assert main(["predict", str(run), str(repository / "dataset" / "test"), f"--output={tmp_path / 'said.csv'}"]) == 0
    with (tmp_path / "said.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == COUNTS["test"] * CLASSES
    assert {f"Thing {label}" for label in range(CLASSES)} <= {name for line in lines for name in line.values()} | {
        name for line in lines for name in line
    }
