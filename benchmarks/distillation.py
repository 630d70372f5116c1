"""Distil with several seeds and put what they reached into one table, with intervals over queries and seeds.

    python benchmarks/distillation.py                                  # the default on digits, five seeds
    python benchmarks/distillation.py --objective lgm_reference        # the public code's settings (slow)

A seed varies the optimisation only: backbone, split, protocol and TabICL are the same. Runs that are there already are
not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from synthicl.cli import train
from synthicl.evaluation.results import Results
from synthicl.report.compare import accuracy_table, comparison_table
from synthicl.report.table import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--objective", default="lgm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--page", type=Path, help="Markdown file to write; default docs/<dataset>-<objective>.md")
    options, flags = parser.parse_known_args()

    together, seconds = Results(), []
    for seed in range(options.seeds):
        folder = options.output_dir / options.objective / f"seed_{seed}"
        run = folder / options.dataset / "version_0"
        if not (run / "results.json").exists():
            start = time.perf_counter()
            configs = ["-c", f"configs/data/{options.dataset}.yaml", f"--model.objective={options.objective}"]
            code = train(["fit", *configs, f"--model.seed={seed}", f"--output_dir={folder}", *flags])
            if code:
                sys.exit(code)
            seconds.append(time.perf_counter() - start)
        results = Results.load(run)
        together.labels |= results.labels
        for key, row in results.rows.items():
            # Real contexts do not depend on the seed of the optimisation: the first run's stand for all.
            if row.context == "synthetic" or seed == 0:
                together.add(row, results.predictions[key])

    command = " ".join(["python benchmarks/distillation.py", *sys.argv[1:]])
    tables = [accuracy_table(together, "test"), comparison_table(together, "test")]
    text = "\n\n".join(f"### {table.title}\n\n{markdown(table)}" for table in tables)
    about = f"`{command}`; {options.seeds} seeds of the optimisation, one backbone, one split."
    if seconds:
        about += (
            f" A run took {min(seconds):.0f} to {max(seconds):.0f} s, scoring with 50 random draws included, "
            f"on {torch.get_num_threads()} CPU thread(s)."
        )
    page = f"# {options.objective} on {options.dataset}\n\n{about}\n\n{text}\n"
    path = options.page or Path("docs") / f"{options.dataset}-{options.objective}.md"
    path.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
