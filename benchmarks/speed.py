"""Time and memory: to the same accuracy, of a step, of an embedding bank; written as JSON, tables and plots.

    .venv/bin/python benchmarks/speed.py                               # everything, an hour on one core
    .venv/bin/python benchmarks/speed.py --sections step memory bank   # minutes
    .venv/bin/python benchmarks/speed.py --sections accuracy --seeds 1
    .venv/bin/python benchmarks/speed.py --sections waiting --remark "A browser was open."
    .venv/bin/python benchmarks/speed.py --sections                    # nothing: the page again from the JSON

What is compared is measured in one run, turn by turn. Flags that are not the script's go to the runs of section
``accuracy``, whose dataset and backbone they name.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import json
import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import bank
import peak_memory
import projection
import step
import time_to_accuracy
import torch
import waiting
from runs import machine

from synthicl.report.table import markdown

STEPS = {
    "cpu": [
        ("mini", 10, 0, "32-true", 1),
        ("mini", 10, 3, "32-true", 1),
        ("mini", 10, 3, "32-true", 3),
        ("dinov2_vits14", 10, 1, "32-true", 1),
        ("dinov2_vits14", 10, 3, "32-true", 1),
        ("dinov2_vits14", 10, 3, "32-true", 3),
        ("dinov2_vits14", 10, 3, "bf16-mixed", 1),
        ("dinov2_vitb14", 10, 1, "bf16-mixed", 1),
    ],
    "cuda": [
        (name, 100, 3, precision, parts)
        for name in ("dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14")
        for precision in ("32-true", "bf16-mixed")
        for parts in (1, 4)
    ],
}
MEMORY = {
    "cpu": [
        ("mini", 100, 1, 64),
        ("mini", 100, 10, 64),
        ("mini", 1000, 10, 64),
        ("dinov2_vits14", 4, 2, 4),
        ("dinov2_vits14", 4, 2, 8),
        ("dinov2_vits14", 8, 4, 8),
        ("dinov2_vitb14", 4, 1, 2),
        ("dinov2_vitb14", 4, 1, 4),
    ],
    "cuda": [("dinov2_vitb14", classes, 10, chunk) for classes in (100, 1000) for chunk in (16, 32, 64)],
}
BANK = {
    "cpu": [
        ("mini", 4000, 0, False, 0),
        ("dinov2_vits14", 128, 0, False, 0),
        ("dinov2_vits14", 128, 2, False, 0),
        ("dinov2_vits14", 128, 0, True, 0),
        ("dinov2_vits14", 128, 0, True, 1),
    ],
    "cuda": [("dinov2_vitb14", 9469, views, files, 14 * files) for views, files in ((0, False), (4, False), (0, True))],
}
PROJECTION = {
    "cpu": [("dinov2_vits14", "bf16-mixed"), ("dinov2_vitb14", "bf16-mixed")],
    "cuda": [("dinov2_vitb14", "32-true"), ("dinov2_vitb14", "bf16-mixed"), ("dinov2_vitl14", "bf16-mixed")],
}
WAITING = [("mini", 0, 100), ("efficientnet_lite0", 0, 15), ("efficientnet_lite0", 6, 5), ("dinov2_vits14", 0, 2)]
SECTIONS = ("accuracy", "projection", "step", "memory", "bank", "waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--name", default="digits", help="of the dataset of section accuracy, for titles")
    parser.add_argument(
        "--procedures",
        nargs="+",
        default=["in_context_lgm", "in_context", "lgm"],
        help="objectives, beside the reference",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of sections step and projection")
    parser.add_argument("--remark", default="", help="on the load of the machine: stands below these sections' tables")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/speed"))
    parser.add_argument("--page", type=Path, default=Path("docs/speed.md"))
    options, flags = parser.parse_known_args()
    flags = flags or [
        "-c",
        "configs/data/digits.yaml",
        "--tabicl.preprocessing=rotated16",
    ]  # val's choice, docs/bundled.md
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    command = shlex.join([".venv/bin/python", "benchmarks/speed.py", *sys.argv[1:]])
    path = options.page.with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for section in options.sections:
        results: Any
        if section == "accuracy":
            folder = options.output_dir / options.name
            results = time_to_accuracy.measure(folder, flags, options.procedures, options.seeds)
            picture = options.page.parent / "images" / f"{options.page.stem}-accuracy.png"
            time_to_accuracy.plot(results, options.name, picture)
        elif section == "projection":
            procedures = found.get("accuracy", {}).get("results", {}).get("procedures", {})
            if not projection.PROCEDURES.keys() <= procedures.keys():
                parser.error(f"--sections projection: needs section accuracy in {path}, with lgm among --procedures.")
            results = projection.measure(PROJECTION[device], options.steps, procedures)
        elif section == "step":
            results = step.measure(STEPS[device], options.steps)
        elif section == "memory":
            results = peak_memory.measure(MEMORY[device])
        elif section == "bank":
            results = bank.measure(BANK[device])
        else:
            results = waiting.measure(WAITING)
        found[section] = {"machine": machine(), "command": command, "remark": options.remark, "name": options.name}
        found[section] |= {"results": results}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    options.page.write_text(page(found, options.page.stem), encoding="utf-8")
    print(f"{options.page} and {path} written.")


def page(found: dict[str, Any], stem: str) -> str:
    """The page: what was measured, in the order of `SECTIONS`."""
    parts = ["# Speed and memory, measured"]
    for section in SECTIONS:
        if section not in found:
            continue
        measured = found[section]
        results = measured["results"]
        made_by = f"Made by `{measured['command']}`, {measured['machine']}."
        parts += [TITLES[section], TEXTS[section], markdown(TABLES[section](results)), made_by]
        parts += [remark] if (remark := measured.get("remark")) else []
        if section == "accuracy":
            parts.append(
                "![Accuracy on val against seconds, with TabICL and with a linear probe, a curve for each procedure; "
                f"the table has their ends.](images/{stem}-accuracy.png)"
            )
    return "\n\n".join(parts) + "\n"


TITLES = {
    "accuracy": "## Time to the same accuracy",
    "projection": "## Projected for DINOv2",
    "step": "## A step beside the backbone alone",
    "memory": "## Peak memory",
    "bank": "## Building an embedding bank",
    "waiting": "## Threads that wait, and memory that is kept",
}
TEXTS = {
    "accuracy": (
        "Tuned here against untuned there: this project's procedures were tuned on val of the digits, `lgm_reference` "
        "has its authors' settings. Its learning rate alone was screened, once, with one seed: with ten times the rate "
        "its best validation comes after a third of the steps, so the times below are partly the rate's "
        "([ablation-digits.md](ablation-digits.md#lgm_reference), with the command). "
        "The table shows accuracy on val in %, the mean over seeds with Student's 95 % "
        "interval. All are seen on one grid of validations, that of the procedure with the fewest. A procedure "
        "reaches the "
        "reference's accuracy at the first validation at which its mean over seeds is at least the reference's mean "
        "at its end. The factor says how many times sooner that is than the end of the reference's run. It has that "
        "meaning for the reference as well, which first gets there before its end. Seconds count from the start of "
        "the fit, without validations. All procedures need clean embeddings of the real images; for all but the first "
        "run they come from disk. Runs of one seed follow each other."
    ),
    "projection": (
        "**A projection, not a run.** Two steps are measured at 224 px with random weights: a step of `lgm` with the "
        "settings of Imagenette (10 images, 3 views, minibatches of an embedding bank), and a step of `lgm_reference` "
        "(10 images, 10 views, as many real images embedded in each step). The table shows their median seconds. They "
        "are multiplied by the steps of a whole run of each. Where these runs end stands in the table above, for "
        "another dataset and a small backbone. Tuned here against untuned there, as above."
    ),
    "step": (
        "One step runs through Lightning's Trainer: decoding, augmentation, objective with 32 heads against 2,048 "
        "rows of a bank, optimiser. After each step the bare backbone runs on a batch of the same shape and "
        "precision, forward and backward to the input; with several chunks two forwards and one backward. The table "
        "shows medians."
    ),
    "memory": (
        "The size of the pyramids of 256 px, with gradients and both moments of Adam, is arithmetic. The peak of two "
        "steps beyond them, without weights and bank, is measured in a process of its own. The last column is what "
        "autograd keeps of a row, times the rows of a chunk. The backbone `mini` sees 32 px, the others 224 px. "
        "Everything is in 32 bit."
    ),
    "bank": (
        "Building is compared with the forward passes alone of the same number of images, in batches of 64. Reading "
        "is one process that reads every image once."
    ),
    "waiting": (
        "The table shows median seconds of a step of ten images, clean or in six views each (60 rows), through "
        "Lightning's Trainer on all cores, two here. Each cell was measured in a process of its own, on an idle "
        "machine or beside a job that keeps one core busy. `synthicl` is what the package sets: threads that wait "
        "spin for a moment and then sleep (OMP_WAIT_POLICY=passive, GOMP_SPINCOUNT=1000), and memory that a step has "
        "freed is kept for the next one. The other columns change one of both. `spinning` is OMP_WAIT_POLICY=active, "
        "`sleeping` is OMP_WAIT_POLICY=passive without spinning, `one thread` is OMP_NUM_THREADS=1. `memory given "
        "back` is glibc as it comes: it gives large pieces of freed memory back to the system, and the next step "
        "faults them in again."
    ),
}
TABLES: dict[str, Any] = {
    "accuracy": time_to_accuracy.table,
    "projection": projection.table,
    "step": step.table,
    "memory": peak_memory.table,
    "bank": bank.table,
    "waiting": waiting.table,
}


if __name__ == "__main__":
    main()
