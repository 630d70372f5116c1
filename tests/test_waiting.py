"""A step never asks the device for a number: the CPU may run ahead of it.

There is no accelerator here, so what would lie on one is traced: tensors that are computed from parameters, embeddings
or labels. Reading one of them, or an operation whose result has a size that depends on one, would wait for the device.
TabICL's own network looks at values in its layers; what it does is left out.
"""

from traceback import extract_stack
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synthicl.augmentation import Augmentation
from synthicl.backbones import create_backbone
from synthicl.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.data.datamodule import ImageDataModule
from synthicl.distiller import Distiller
from synthicl.objectives import InContext, LinearGradientMatching, Objective, Ridge, TrajectoryMatching

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.bincount,
    aten.repeat_interleave,
}


class WaitedError(AssertionError):
    pass


class Trace(TorchDispatchMode):
    """Follows tensors that would be on the device, by their storage."""

    def __init__(self, on_device: list[torch.Tensor]) -> None:
        super().__init__()
        self.kept = [tensor.untyped_storage() for tensor in on_device]  # kept: an address is not used twice
        self.storages = {storage.data_ptr() for storage in self.kept}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        traced = [t for t in tensors if t.numel() and t.untyped_storage().data_ptr() in self.storages]
        waits = function.overloadpacket in WAITS or any(
            t.dtype == torch.bool and function.overloadpacket in {aten.index, aten.index_put} for t in tensors[1:]
        )
        if traced and waits and not any("/tabicl/_model/" in frame.filename for frame in extract_stack()):
            raise WaitedError(f"{function} of {[tuple(t.shape) for t in traced]}")
        result = function(*args, **kwargs or {})
        if traced:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.kept.append(leaf.untyped_storage())
                    self.storages.add(leaf.untyped_storage().data_ptr())
        return result


def step(objective: Objective, **settings: Any) -> None:
    """Two steps of a run, the second one traced."""
    data = ImageDataModule("digits")
    augmentation = Augmentation(flip=0, area=(0.6, 1), noise_std=0.05)
    module = Distiller(create_backbone("mini"), 10, objective, augmentation=augmentation, image_size=32, **settings)
    tabicl = TabICLEvaluation(protocol="rotated16", n_estimators=1)
    if isinstance(objective, InContext):
        objective.deploy(tabicl)
    original = module.training_step

    def traced(batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            return original(batch, batch_idx)
        bank = module.bank(batch)
        roots = [*module.parameters(), bank.z, bank.y, module.labels]
        with Trace(roots):
            return original(batch, batch_idx)

    module.training_step = traced
    trainer = L.Trainer(
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[tabicl],
    )
    trainer.fit(module, datamodule=data)


pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode.*", "ignore:.*many workers.*")


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (LinearGradientMatching(heads=2), {"views": 2, "chunk_size": 7}),
        (LinearGradientMatching(heads=2), {"views": 2, "soft_labels": True}),
        (TrajectoryMatching(heads=2, probe_steps=20), {"views": 1}),
        (Ridge(), {"views": 1}),
        (InContext(queries=8, members=3), {"views": 0, "ipc": 2}),
        (InContext(queries=8, balanced=True), {"views": 2}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else str(value),
)
def test_a_step_does_not_wait_for_the_device(objective, settings):
    step(objective, **settings)


def test_waiting_is_seen():
    class Waits(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real, num_classes, generator) * float(synthetic.z.sum() > 0)

    class Counts(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real._replace(z=real.z[real.y > 3], y=real.y[real.y > 3]), 10, generator)

    for objective in (Waits(), Counts()):
        with pytest.raises(WaitedError):
            step(objective)
