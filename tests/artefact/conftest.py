"""What tests of the artefact share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.data.datasets.digits import load
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.calibrated import calibrate
from synthicl.probes.novelty import fit_novelty
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

NAMES = [*map(str, range(9)), "<b>nine&"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A calibrated context set of two real digits per class with their pixels, as a finished run leaves it."""
    splits, backbone = load(None).splits, create_backbone("mini")
    train, val = (
        LabelledEmbeddings(embed_views(backbone, splits[name], 32)[0], torch.from_numpy(splits[name].labels))
        for name in ("train", "val")
    )
    rows = np.concatenate([np.flatnonzero(splits["train"].labels == label)[:2] for label in range(10)])
    pixels = torch.from_numpy(np.stack([splits["train"].images[row] for row in rows]))[:, None].expand(-1, 3, -1, -1)
    metadata = {"backbone": "mini", "backbone_weights": backbone.fingerprint, "crop_size": 32}
    metadata |= {"tabicl_checkpoint": "mini", "dataset": "digits"}
    context = ContextSet(
        *(train.z[rows], train.y[rows], NAMES, fit_preprocessing("rotated16", train.z, 2), pixels, metadata)
    )
    probe = TabICLProbe(Deployment(context.preprocessing, "mini", MINI))
    probe.fit(context.rows)
    folder = tmp_path_factory.mktemp("runs") / "version_3"
    replace(context, calibration=calibrate(probe, np.arange(10), val, fit_novelty(train.z))).save(folder)
    return folder
