"""What matters in a distillation: one setting changed at a time, on val.

    .venv/bin/python benchmarks/ablation.py                             # one seed of everything, on digits
    .venv/bin/python benchmarks/ablation.py --only "lgm" "lgm, heads 1" --seeds 5  # more seeds of what is close
    .venv/bin/python benchmarks/ablation.py --name photographs -c configs/data/folder.yaml -c ... --data.root=my/images

Flags that are not the script's go to train.py. Runs that are there are not made again, and the page shows all that are
there. test is not looked at.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from runs import LINEAR, curve, distil, find, machine, percent

from synthicl.report.table import Table, markdown

MAX_SEEDS = 20
SLOW = ("lgm_reference",)  # 5,000 steps a run: with --only
INIT = "--model.objective.init_args"
COMMON = {
    "lr 0.01": ["--model.lr=0.01"],
    "lr 0.03": ["--model.lr=0.03"],
    "lr 0.1": ["--model.lr=0.1"],
    "lr constant": ["--model.lr_schedule=constant"],
    "NAdam": ["--model.optimizer=NAdam"],
    "Adam with betas 0.5 and 0.9": ["--model.optimizer=Adam", "--model.optimizer.betas=[0.5,0.9]"],
    "a level every 15 steps": ["--model.images.grow_every=15"],
    "a level every 60 steps": ["--model.images.grow_every=60"],
    "a level every 100 steps": ["--model.images.grow_every=100"],
    "300 steps": ["--trainer.max_steps=300"],
    "1200 steps": ["--trainer.max_steps=1200"],
    "pixels": ["--model.images.parameterisation=pixels"],
    "levels begin at zero": ["--model.images.init=zero"],
    "colours not decorrelated": ["--model.images.decorrelate=false"],
    "real images online": ["--model.real.source=online"],
}
VARIATIONS: dict[str, dict[str, list[str]]] = {
    "lgm": {
        "heads 1": [f"{INIT}.heads=1"],
        "heads 8": [f"{INIT}.heads=8"],
        "heads 128": [f"{INIT}.heads=128"],
        "logits of standard deviation 1": [f"{INIT}.logit_std=1"],
        "not balanced": [f"{INIT}.balanced=false"],
        "clean images": ["--model.views.number=0"],
        "1 view": ["--model.views.number=1"],
        "10 views": ["--model.views.number=10"],
        "4 views in the bank": ["--model.real.bank_views=4"],
        "bank in minibatches of 100": ["--model.real.bank_batch_size=100"],
        **COMMON,
    },
    "in_context": {
        "32 queries": [f"{INIT}.queries=32"],
        "512 queries": [f"{INIT}.queries=512"],
        "2 members": [f"{INIT}.members=2"],
        "1 view": ["--model.views.number=1", f"{INIT}.view=augmented"],
        "3 views": ["--model.views.number=3", f"{INIT}.view=augmented"],
        **COMMON,
    },
    "in_context_views": {
        "TabICL from the first step": [f"{INIT}.starts=[0,0,0]"],
        "matching at a third of the weight": [f"{INIT}.weights=[0.5,0.5,1]"],
        "matching at twice the weight": [f"{INIT}.weights=[3,3,1]"],
        "matching on clean images only": [f"{INIT}.weights=[3,0,1]"],
        "matching on augmented views only": [f"{INIT}.weights=[0,3,1]"],
        "16 columns": ["--tabicl.preprocessing=rotated16"],
        "64 columns": ["--tabicl.preprocessing=rotated64"],
        "one of two TabICLs in each step": [f"{INIT}.terms.init_args.checkpoints=[mini,mini_1]"],
        "clean queries": [f"{INIT}.terms.init_args.query_view=clean"],
        "labels as targets": [f"{INIT}.terms.init_args.targets=labels"],
        "colours changed by 0.4": ["--model.views.augmentation.color=0.4"],
        "4 views": ["--model.views.number=4"],
        "crops of 0.08 to 1": ["--model.views.augmentation.area=[0.08,1]"],
        **COMMON,
    },
    "lgm_reference": {
        "lr 0.0005": ["--model.lr=0.0005"],
        "lr 0.005": ["--model.lr=0.005"],
        "lr 0.02": ["--model.lr=0.02"],
    },
    "lgm_views": {
        "clean images only": [f"{INIT}.weights=[1,0]"],
        "augmented views only": [f"{INIT}.weights=[0,1]"],
    },
    "in_context_lgm": {
        **{f"TabICL joins at {share}": [f"{INIT}.starts=[0,{share}]"] for share in ("0.0", "0.1", "0.2", "0.5")},
        **{f"weight {weight} for lgm": [f"{INIT}.weights=[{weight},1]"] for weight in ("0.03", "0.3", "1.0")},
        **COMMON,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="digits", help="of the dataset, for folders and titles")
    parser.add_argument("--only", nargs="+", help="names such as 'lgm' or 'lgm, heads 1'")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablation"))
    parser.add_argument("--page", type=Path, help="docs/ablation-NAME.md unless said otherwise")
    options, flags = parser.parse_known_args()
    options.page = options.page or Path(f"docs/ablation-{options.name}.md")
    flags = flags or ["-c", "configs/data/digits.yaml", "--tabicl.preprocessing=rotated16"]

    parts = []
    for objective, variations in VARIATIONS.items():
        every = {objective: [], **{f"{objective}, {name}": changed for name, changed in variations.items()}}
        body = []
        for name, changed in every.items():
            folder = options.output_dir / options.name / name.replace(", ", "/").replace(" ", "_")
            asked = objective not in SLOW if options.only is None else name in options.only
            wanted = options.seeds if asked else 0
            runs = []
            for seed in range(MAX_SEEDS):
                settings = [*flags, *LINEAR, f"--model.objective={objective}", *changed, f"--model.seed={seed}"]
                place = folder / f"seed_{seed}"
                run = distil(place, settings) if seed < wanted else find(place, settings)
                runs += [run] if run else []
            if runs:
                body.append(line(name, runs))
        if not body:
            continue
        header = ["variation", "seeds", "TabICL", "linear", "best TabICL, at step", "seconds"]
        parts.append(f"## {objective}\n\n{markdown(Table('', header, body))}")
    command = shlex.join([".venv/bin/python", "benchmarks/ablation.py", *sys.argv[1:]])
    about = (
        f"Written by `{command}` ({machine()}).\n\nThe tables show accuracy on val in % at the end of a run. With "
        "several seeds it is the mean, from three on with Student's 95 % interval, unless all are equal. The best "
        "TabICL is the highest accuracy at any validation: a run that stops on val would have it. Seconds count from "
        "the start of the fit, without validations."
    )
    options.page.write_text(
        f"# Ablation on {options.name}\n\n{about}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8"
    )
    print(f"{options.page} written.")


def line(name: str, runs: list[Path]) -> list[str]:
    """A row of the table."""
    curves = [curve(run) for run in runs]
    best = [int(np.argmax(found.accuracy["tabicl"])) for found in curves]
    top = np.mean([found.accuracy["tabicl"][at] for found, at in zip(curves, best, strict=True)])
    steps = [found.steps[at] for found, at in zip(curves, best, strict=True)]
    return [
        name,
        str(len(runs)),
        *(percent([found.accuracy[probe][-1] for found in curves]) for probe in ("tabicl", "linear")),
        f"{100 * top:.1f}, {int(np.median(steps))}",
        f"{np.mean([found.seconds[-1] for found in curves]):.0f}",
    ]


if __name__ == "__main__":
    main()
