"""More classes than TabICL has outputs, from end to end with seconds of each stage: writes docs/many-classes.md.

    .venv/bin/python benchmarks/many_classes.py --data.root=PATH
    .venv/bin/python benchmarks/many_classes.py --data.root=PATH --datasets groceries-42 --objectives in_context_views

An hour or two on one core: half of the recipe's steps. PATH is the Grocery Store Dataset, unpacked. A run that is there
is not made again, and the page shows all that are there. Each begins with an empty cache of embeddings. Nothing is
chosen here; but the recipe was chosen on official test photographs of some of these classes (groceries-tuning).
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from runs import curve, distil, find, machine

from synthicl.cli.main import main as synthicl_main
from synthicl.core.files import write_whole
from synthicl.core.settings import of_subject
from synthicl.data.datasets.groceries import dataset_folder
from synthicl.report.page import render
from synthicl.report.table import Table, markdown
from synthicl.studies.compare import show_parts
from synthicl.studies.compare.show import accuracy_table, finding
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject

STEPS = 300  # half of the recipe's, with levels added twice as often
COMPARED = ("--contexts=random,centroid,class_mean,all", "--probes=tabicl,linear", "--random_draws=5")
WORST = 10  # classes that are listed; the report of a run has all
STAGES = "stages.json"  # beside a run, written last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=["groceries-42", "groceries-81"])
    parser.add_argument("--objectives", nargs="+", default=["lgm_views"])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("outputs/many-classes"))
    parser.add_argument("--page", type=Path, default=Path("docs/many-classes.md"))
    parser.add_argument("--remark", default="", help="a sentence for the page, such as what else ran meanwhile")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for dataset in options.datasets:
        for objective in options.objectives:
            measure(options.folder / objective, dataset, objective, options.root, options.steps)
    write_page(options.page, options.folder, options.remark)


def measure(folder: Path, dataset: str, objective: str, root: Path, steps: int) -> None:
    """Embed, distil, compare and predict, and keep the seconds of each beside the run."""
    asked = ["-c", f"data/{dataset}", f"--data.root={root}", f"--model.objective={objective}"]
    asked += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={max(steps // 2, 1)}"]
    asked += [f"--model.images.grow_every={max(steps // 20, 1)}"]
    if made := find(folder, asked):
        if (made / STAGES).is_file():
            return
        (made / "bench.json").unlink()  # interrupted after the fit: its seconds are lost, so it is made again
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SYNTHICL_CACHE"] = cache
        run: list[Path] = []

        def embed() -> None:
            subject = Subject(folder, of_subject(dataset, {"data.root": str(root)})[1])
            for split in ("train", "val", "test"):
                subject.embedded(split)

        stages: dict[str, Callable[[], object]] = {
            "embedding": embed,
            "fit": lambda: run.append(distil(folder, asked)),
            "compare": lambda: call("compare", str(run[0]), *COMPARED),
            "predict": lambda: call("predict", str(run[0]), str(test_images(root)), f"--output={cache}/said.csv"),
        }
        for name, stage in stages.items():
            begin = time.perf_counter()
            stage()
            seconds[name] = time.perf_counter() - begin
    of_steps = curve(run[0]).seconds[-1]
    seconds |= {"steps": of_steps, "fit": seconds["fit"] - of_steps}
    about = {"seconds": seconds, "steps": steps, "objective": objective, "dataset": dataset, "machine": machine()}
    made_by = shlex.join([".venv/bin/python", "benchmarks/many_classes.py", *sys.argv[1:]])
    write_whole(run[0] / STAGES, lambda path: path.write_text(json.dumps(about | {"made_by": made_by}) + "\n"))


def call(*words: str) -> None:
    """Run a command of synthicl in this process."""
    if code := synthicl_main(list(words)):
        sys.exit(code)


def test_images(root: Path) -> Path:
    """The official test photographs, all classes of them."""
    found = dataset_folder(root)
    if found is None:
        sys.exit(f"--data.root={root}: no Grocery Store Dataset as a folder there.")
    return found / "test"


def write_page(page: Path, folder: Path, remark: str) -> None:
    """Write the page and its figures from all runs that are there."""
    parts = []
    for path in sorted(folder.glob(f"*/*/version_*/{STAGES}"), key=lambda path: (path.parts[-3], path.parts[-4])):
        about, results = json.loads(path.read_text(encoding="utf-8")), Results.load(path.parent).of("compare")
        parts.append(section(page, about, results, path.parent))
    if not parts:
        sys.exit(f"{folder}: no finished runs.")
    sections = "\n".join(parts)
    text = f"""# More than ten classes, measured

Written by `.venv/bin/python benchmarks/many_classes.py`; the command of each run stands with it. Backbone
EfficientNet-Lite0 at 128 px, the bundled TabICL, one image per class, one seed, half of the recipe's steps. TabICL has
ten outputs: it is asked about groups of similar classes, and then within them
(`synthicl/tabicl/class_tree.py`). {remark}

{sections}"""
    write_whole(page, lambda target: target.write_text(text, encoding="utf-8"))
    print(text)


def section(page: Path, about: dict[str, Any], results: Results, run: Path) -> str:
    """Seconds, accuracies, and what is confused, of one run."""
    name, seconds = f"{about['dataset']}, {about['objective']}", about["seconds"]
    stages = [
        ["clean embeddings of train, val and test", f"{seconds['embedding']:.0f}"],
        ["embeddings of views, choice of a preprocessing, validations, table on val", f"{seconds['fit']:.0f}"],
        [f"{about['steps']} steps", f"{seconds['steps']:.0f}"],
        ["compare on val and test, 5 random draws", f"{seconds['compare']:.0f}"],
        ["predict the official test photographs", f"{seconds['predict']:.0f}"],
    ]
    seconds_table = Table("Seconds, one after another", ["stage", "seconds"], stages)
    shown: list[Table | str] = [small_grid(page, about, run), seconds_table, accuracy_table(results, "test")]
    for probe in ("tabicl", "linear"):
        rows = {key: row for key, row in results.rows.items() if row.probe == probe}
        alone = Results(rows, results.predictions, results.labels, results.arrays)
        tables = show_parts.tables(alone, "test", WORST)
        shown += tables if probe == "tabicl" else tables[:-1]  # the sizes of classes are the same
        figure = show_parts.figures(alone, "test")["confusion"]
        picture = page.parent / "images" / f"confusion-{about['dataset']}-{about['objective']}-{probe}.svg"
        content = render(figure, "svg")
        write_whole(picture, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
        shown.append(f"![{figure.get_label()}](images/{picture.name})")
    texts = [part if isinstance(part, str) else f"**{part.title}**\n\n{markdown(part)}" for part in shown]
    head = f"## {name}\n\n{about['machine']}. `{about['made_by']}`\n\n{finding(results)}"
    return "\n\n".join([head, *texts]) + "\n"


def small_grid(page: Path, about: dict[str, Any], run: Path) -> str:
    """The run's synthetic images as one small picture, and what shows it."""
    picture = page.parent / "images" / f"grid-{about['dataset']}-{about['objective']}.jpg"
    grid = Image.open(run / "grid.png").convert("RGB")
    grid.thumbnail((900, 4000))
    write_whole(picture, lambda path: grid.save(path, "JPEG", quality=85))
    return f"![The synthetic images of {about['dataset']}, one per class]({picture.relative_to(page.parent)})"


if __name__ == "__main__":
    main()
