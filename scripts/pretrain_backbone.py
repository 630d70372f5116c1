"""Pre-train a bundled backbone on the training split of a dataset, without labels (SimCLR).

    .venv/bin/python scripts/pretrain_backbone.py --architecture mini
    .venv/bin/python scripts/pretrain_backbone.py --architecture mini_conv --data.root my/images \
        --augmentation photographs --output my-backbone.safetensors

T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020, https://arxiv.org/abs/2002.05709. Labels are read only to score: the checkpoint that
is best on val is kept, and scored on test once, at the end.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import kornia.augmentation as K
import timm
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from synthicl.backbones.models import mini
from synthicl.data.datasets import dataset_spec
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages

# What two views of an image may differ in: what the embedding is to ignore.
AUGMENTATIONS = {
    "digits": lambda size: (
        K.RandomResizedCrop((size, size), scale=(0.6, 1.0), ratio=(0.8, 1.25), cropping_mode="resample"),
        K.RandomAffine(degrees=15, translate=(0.1, 0.1), shear=10, p=0.7),
        K.RandomGaussianNoise(std=0.05, p=0.5),
        K.RandomErasing(p=0.3, scale=(0.02, 0.15)),
    ),
    # The paper's, appendix A, without blur, as it does for small images.
    "photographs": lambda size: (
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
    ),
}


def load_images(split: LabelledImages, size: int) -> Tensor:
    """Images of a split, (N, 3, size, size) in [0, 1]."""
    squares = SquareImages(split, size)
    return torch.stack([squares[index] for index in range(len(squares))]) / 255


def scores(model: nn.Module, images: dict[str, Tensor], labels: dict[str, Tensor], split: str) -> dict[str, float]:
    """Accuracy of logistic regression and 5-NN on a split, fitted on all training embeddings."""
    model.eval()
    with torch.inference_mode():
        z, z_held_out = (model(images[name] * 2 - 1).numpy() for name in ("train", split))
    model.train()
    linear = LogisticRegression(max_iter=5000).fit(z, labels["train"]).score(z_held_out, labels[split])
    knn = KNeighborsClassifier(5).fit(z, labels["train"]).score(z_held_out, labels[split])
    return {"linear": round(float(linear), 4), "knn": round(float(knn), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mini", choices=["mini", "mini_conv"])
    parser.add_argument("--data.root", dest="root", type=Path, help="image folder as for `folder`; default: digits")
    parser.add_argument("--augmentation", default="digits", choices=list(AUGMENTATIONS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.root is not None and options.output is None:
        parser.error("--data.root: needs --output=PATH, or the bundled weights would be replaced.")

    torch.manual_seed(options.seed)
    dataset = dataset_spec("digits" if options.root is None else "folder").load(options.root or Path(), 0)
    images = {name: load_images(split, mini.SIZE) for name, split in dataset.splits.items()}
    labels = {name: torch.from_numpy(split.labels) for name, split in dataset.splits.items()}

    model = getattr(mini, options.architecture)()
    head = nn.Sequential(nn.Linear(model.num_features, 256), nn.GELU(), nn.Linear(256, 64))
    augment = K.AugmentationSequential(*AUGMENTATIONS[options.augmentation](mini.SIZE))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, options.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps)
    count = len(images["train"])
    batch = min(options.batch_size, count)
    positive = torch.cat([torch.arange(batch) + batch, torch.arange(batch)])

    start, best, best_state = time.time(), {"linear": 0.0, "knn": 0.0}, {}
    for step in track(range(1, options.steps + 1), f"{options.architecture}", disable=not sys.stdout.isatty()):
        views = images["train"][torch.randperm(count)[:batch]].repeat(2, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            z = model(augment(views) * 2 - 1)
        z = F.normalize(head(z.float()), dim=1)
        similarity = (z @ z.T / options.temperature).fill_diagonal_(-1e9)
        loss = F.cross_entropy(similarity, positive)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == options.steps:
            val = scores(model, images, labels, "val")
            print(f"step {step}, {time.time() - start:.0f} s, loss {loss.item():.3f}, val {val}", flush=True)
            if sum(val.values()) >= sum(best.values()):
                best = val
                best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_state)
    provenance = {
        "command": ".venv/bin/python " + " ".join(sys.argv),
        "seed": options.seed,
        "hours": round((time.time() - start) / 3600, 3),
        "data": f"{options.root or 'scikit-learn digits'}, {count} training images, no labels",
        "val": best,
        "test": scores(model, images, labels, "test"),
        "n": {name: len(of_split) for name, of_split in labels.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }
    output = options.output or Path("synthicl/backbones/weights") / f"{options.architecture}.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in best_state.items()}, output)
    output.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(json.dumps(provenance, indent=2))


if __name__ == "__main__":
    main()
