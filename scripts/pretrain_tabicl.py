"""Pre-train the bundled mini TabICL on a synthetic prior of class clusters: it sees no image and no embedding.

    .venv/bin/python scripts/pretrain_tabicl.py --steps 24000 --seed 0

The model is the real ``tabicl`` package's, only small; the checkpoint is in tabicl's own format. What makes it work:

- the prior looks like the task: anisotropic, heavy-tailed, sometimes multi-modal class clusters in 4 to 32 columns, 2
  to 10 classes, 1 to 90 context rows per class;
- a curriculum over classes and columns, and Muon: AdamW on the full prior does not leave chance level in this time;
- columns are shuffled in every table: the ensemble members of ``TabICLClassifier`` shuffle them too;
- every random draw is a function of (seed, step), so that an interrupted run resumes exactly.

TabICL: J. Qu, D. Holzmueller, G. Varoquaux and M. Le Morvan, ICML 2025, https://arxiv.org/abs/2502.05564.
Muon: K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from tabicl._model.tabicl import TabICL
from tabicl.train._muon import Muon
from torch import Tensor

CONFIG = {
    "max_classes": 10,
    "embed_dim": 32,
    "col_num_blocks": 1,
    "col_nhead": 4,
    "col_num_inds": 8,
    "col_affine": False,
    "col_feature_group": "same",
    "col_feature_group_size": 3,
    "col_target_aware": True,
    "col_ssmax": False,
    "row_num_blocks": 2,
    "row_nhead": 4,
    "row_num_cls": 3,
    "row_rope_interleaved": False,
    "icl_num_blocks": 4,
    "icl_nhead": 4,
    "icl_ssmax": "ssmax",
    "zero_init": False,
}
CELLS = 10_000  # rows x columns of all tables of a step: what a step costs
QUERIES = 32


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: up to which share of the run it lasts and how large its tables are."""

    until: float
    max_classes: int
    columns: tuple[int, int]
    max_shots: int


CURRICULUM = (
    Stage(0.015, 2, (4, 8), 6),
    Stage(0.04, 3, (4, 8), 6),
    Stage(0.08, 5, (4, 12), 6),
    Stage(0.30, 10, (6, 16), 12),
    Stage(0.60, 10, (6, 24), 40),
    Stage(1.00, 10, (6, 32), 90),
)


def draw_tables(stage: Stage, generator: torch.Generator) -> tuple[Tensor, Tensor, int, int]:
    """Draw tables of one shape from the prior.

    Returns:
        x: (tables, rows, columns), columns standardised by their context rows.
        y: (tables, rows), class indices; the first ``context`` rows are the context.
        context: number of context rows.
        classes: number of classes.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(*shape).uniform_(low, high, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    classes = max(integer(2, stage.max_classes), integer(2, stage.max_classes))
    columns = integer(*stage.columns)
    # One row per class in a quarter of the tables, else log-uniform up to the stage's most.
    shots = 1 if uniform(0, 1, 1).item() < 0.25 else round(math.exp(uniform(0, math.log(stage.max_shots), 1).item()))
    context = classes * shots
    rows = context + QUERIES
    count = min(max(CELLS // (rows * columns), 3), 48)

    # Labels: each class `shots` times; in a fifth of the steps the context is unbalanced, each class at least once.
    context_y = torch.arange(classes).repeat(shots)
    if shots > 1 and uniform(0, 1, 1).item() < 0.2:
        weight = uniform(0.1, 1, classes)
        extra = torch.multinomial(weight, context - classes, replacement=True, generator=generator)
        context_y = torch.cat([torch.arange(classes), extra])
    query_y = torch.randint(0, classes, (QUERIES,), generator=generator)
    y = torch.cat([context_y, query_y])
    relabel = torch.stack([torch.randperm(classes, generator=generator) for _ in range(count)])
    y = relabel[:, y]

    # Class means whose spread falls from the first latent axis to the last, as along principal components.
    falling = torch.exp(-uniform(0, 3, count, 1, 1) * torch.arange(columns) / columns)
    separation = torch.exp(uniform(-0.6, 1.5, count, 1, 1))
    easier_with_few_columns = (12 / columns) ** 0.5 if columns < 12 else 1.0
    modes = 3
    spread = uniform(0, 0.7, count, 1, 1, 1) * (uniform(0, 1, count, 1, 1, 1) < 0.4)
    means = normal(count, classes, 1, columns) + spread * normal(count, classes, modes, columns)
    means = means * (separation * falling * easier_with_few_columns)[:, :, None]
    mode = torch.randint(0, modes, (count, rows), generator=generator)
    x = means[torch.arange(count)[:, None], y, mode]

    # Noise: correlated over columns, wider in some classes and some rows, its own spectrum.
    mixing = torch.eye(columns) + normal(count, columns, columns) / columns**0.5 * uniform(0, 1, count, 1, 1)
    noise = (
        normal(count, rows, columns)
        @ mixing
        * torch.exp(-uniform(0, 1.5, count, 1, 1) * torch.arange(columns) / columns)
    )
    class_width = torch.exp(uniform(-0.3, 0.3, count, classes)).gather(1, y)[..., None]
    row_width = torch.exp(normal(count, rows, 1) * uniform(0, 0.4, count, 1, 1))
    x = x + noise * class_width * row_width

    # Half of the tables in a rotated basis; a third squashed; columns always shuffled.
    rotation = torch.linalg.qr(normal(count, columns, columns)).Q
    rotated = uniform(0, 1, count, 1, 1) < 0.5
    x = torch.where(rotated, x @ rotation, x)
    squashed = uniform(0, 1, count, 1, 1) < 0.3
    x = torch.where(squashed, 2 * torch.tanh(x / 2), x)
    x = x[:, :, torch.randperm(columns, generator=generator)]
    known = x[:, :context]
    x = (x - known.mean(1, keepdim=True)) / (known.std(1, keepdim=True, unbiased=False) + 1e-6)
    return x.clamp(-8, 8), y, context, classes


def stage_at(progress: float) -> Stage:
    """The curriculum's stage at a share of the run in [0, 1)."""
    return next(stage for stage in CURRICULUM if progress < stage.until)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 50 steps, constant, linear decay to zero over the second half."""
    return peak * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))


@torch.no_grad()
def validate(model: TabICL, tables: int = 30) -> dict[str, float]:
    """Accuracy on fixed tables of the prior beside nearest centroid, by context rows per class (16 columns)."""
    result = {}
    for shots in (1, 5, 20, 90):
        stage = Stage(1.0, 10, (16, 16), shots)
        right = centroid_right = total = 0
        generator = torch.Generator().manual_seed(shots)
        for _ in range(tables):
            x, y, context, classes = draw_tables(stage, generator)
            logits = model(x, y[:, :context].float())[..., :classes]
            onehot = F.one_hot(y[:, :context], classes).float()
            centroids = onehot.mT @ x[:, :context] / onehot.sum(1)[..., None]
            right += int((logits.argmax(-1) == y[:, context:]).sum())
            centroid_right += int((torch.cdist(x[:, context:], centroids).argmin(-1) == y[:, context:]).sum())
            total += y[:, context:].numel()
        result[f"<={shots}"] = round(right / total, 3)
        result[f"<={shots} centroid"] = round(centroid_right / total, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("synthicl/tabicl/weights/mini.ckpt"))
    parser.add_argument("--resume", type=Path, help="a training state (*.state) that an interrupted run left")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    model = TabICL(**CONFIG).train()
    optimizer = Muon(
        param_groups=[{"params": list(model.parameters()), "use_muon": True}],
        lr=options.lr,
        weight_decay=0.01,
        matched_adamw_rms=0.2,
        momentum=0.9,
        nesterov=True,
        ns_steps=5,
        adamw_betas=(0.9, 0.95),
        adamw_eps=1e-8,
    )
    first, seconds_before = 0, 0.0
    if options.resume:
        state = torch.load(options.resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds_before = state["step"], state["seconds"]
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def save(step: int, seconds: float) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        for content, suffix in ((state, ".state"), ({"config": CONFIG, "state_dict": model.state_dict()}, ".ckpt")):
            partial = options.output.with_suffix(".partial")
            torch.save(content, partial)
            partial.replace(options.output.with_suffix(suffix))

    start, recent = time.time() - seconds_before, []
    for step in range(first, options.steps):
        generator = torch.Generator().manual_seed(options.seed * 10_000_000 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.lr)
        x, y, context, classes = draw_tables(stage_at(step / options.steps), generator)
        logits = model(x, y[:, :context].float())[..., :classes]
        loss = F.cross_entropy(logits.flatten(0, 1), y[:, context:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item() / math.log(classes))
        if (step + 1) % 200 == 0:
            print(
                f"step {step + 1}, {time.time() - start:.0f} s, loss / log(classes) {sum(recent) / len(recent):.3f}",
                flush=True,
            )
            recent.clear()
        if (step + 1) % 2000 == 0:
            save(step + 1, time.time() - start)
            print(validate(model), flush=True)
    seconds = time.time() - start
    save(options.steps, seconds)
    provenance = {
        "command": ".venv/bin/python scripts/pretrain_tabicl.py "
        f"--steps {options.steps} --lr {options.lr} --seed {options.seed}",
        "seed": options.seed,
        "hours": round(seconds / 3600, 2),
        "data": "synthetic class clusters only (draw_tables in scripts/pretrain_tabicl.py)",
        "prior_accuracy": validate(model),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "tabicl": version("tabicl")},
    }
    options.output.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(json.dumps(provenance, indent=2))


if __name__ == "__main__":
    main()
