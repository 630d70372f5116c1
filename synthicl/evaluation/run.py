"""Evaluating a finished run: its folder says everything that is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synthicl import probes
from synthicl.assets import obtain
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.context_set import BEST, ContextSet
from synthicl.data.datamodule import ImageDataModule
from synthicl.embeddings import embed_views
from synthicl.errors import UserError
from synthicl.evaluation.compare import Context, compare, real_contexts
from synthicl.evaluation.results import Results
from synthicl.files import write_whole
from synthicl.in_context.checkpoint import checkpoint_asset
from synthicl.probes.probe import Probe
from synthicl.registry import registered
from synthicl.report.card import card
from synthicl.report.table import print_tables


def evaluate_run(folder: Path, config: Mapping[str, Any], device: torch.device | str = "cpu") -> Results:
    """Score a run's context sets and the real contexts on val and test, write the results and the card, print tables.

    val rows are there so that what val chose can be seen; nothing reads test rows but tables.

    Args:
        folder: of the run, with its context set.
        config: settings of the run as dotted names, see `synthicl.preflight.run_config`.
        device: where backbone and TabICL run.

    Returns:
        All results of the run, those of earlier evaluations included.

    Raises:
        UserError: the folder holds no context set, or something it needs is missing.
    """
    context_set = ContextSet.load(folder)
    data = ImageDataModule(config["data.name"], Path(config["data.root"]), config["data.num_workers"])
    backbone = FrozenBackbone(config["backbone.name"], config["backbone.weights"]).to(device)
    metadata = context_set.metadata
    if backbone.fingerprint != metadata["backbone_weights"]:
        raise UserError(
            f"--backbone.weights: these weights ({backbone.fingerprint}) are not those the run was made with "
            f"({metadata['backbone_weights']}). Supply the same file."
        )
    embedded = {}
    for split, images in data.splits.items():
        z = embed_views(backbone, images, metadata["crop_size"], num_workers=data.num_workers, what=f"{split} images")
        embedded[split] = z[0], torch.from_numpy(images.labels)
    checkpoint = obtain(checkpoint_asset(config["tabicl.checkpoint"], config["tabicl.model_path"]))
    factories = registered(probes)
    names = ["tabicl", *(name for name in factories if name != "tabicl")]  # the table's first column
    fitted: list[Probe] = [factories[name](context_set.protocol, checkpoint, device) for name in names]

    contexts = real_contexts(*embedded["train"], metadata["ipc"], config["random_draws"])
    contexts.append(Context("synthetic", 0, "last", context_set.embeddings, context_set.labels))
    if (folder / BEST).is_dir():
        best = ContextSet.load(folder / BEST)
        contexts.append(Context("synthetic", 0, BEST, best.embeddings, best.labels))
    results = Results.load(folder)
    fields = ("dataset", "backbone", "backbone_weights", "objective", "tabicl_checkpoint")
    identity = {name: metadata[name] for name in fields}
    queries = {split: embedded[split] for split in ("val", "test")}
    compare(contexts, fitted, queries, metadata["seed"], metadata["ipc"], identity, results)
    results.save(folder)
    for part in (folder, folder / BEST):
        if part.is_dir():
            text = card(ContextSet.load(part), results)
            write_whole(part / "README.md", lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    print_tables(results, "test")
    print(f"Images, tables and the context set: {folder}", flush=True)
    return results
