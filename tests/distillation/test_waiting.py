"""A step never asks the device for a number: the CPU may run ahead of it.

There is no accelerator here, so what would lie on one is traced: tensors that are computed from parameters, embeddings
or labels. Reading one of them, or an operation whose result has a size that depends on one, would wait for the device.
TabICL's own network looks at values in its layers; what it does is left out, and so is the one look directly before it,
at which columns of a context vary: the others are not there for the network, so their number is the shape of its input.
"""

from pathlib import Path
from traceback import extract_stack
from typing import Any

import lightning as L
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.images import ImageSettings
from synthicl.distillation.real_side import RealSettings
from synthicl.distillation.views import ViewSettings
from synthicl.objectives import (
    InContext,
    LinearGradientMatching,
    Objective,
    Ridge,
    TrainedHeadGradientMatching,
    WeightedSum,
)
from synthicl.tabicl.differentiable import columns_shown
from synthicl.tabicl.preprocessing import Preprocessing

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.bincount,
    aten.repeat_interleave,
    aten.equal,
    aten.unique_consecutive,
    aten.unique_dim,
}
READS = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item, torch.equal}


class WaitedError(AssertionError):
    pass


def of_a_library() -> bool:
    """Whether it is kornia, which draws on the CPU, Lightning's own way to a device, TabICL's network, or its shape."""
    known = "/kornia/", "/lightning/fabric/utilities/apply_func", "/tabicl/_model/", f":{columns_shown.__name__}"
    return any(part in f"{frame.filename}:{frame.name}" for frame in extract_stack() for part in known)


class Trace(TorchDispatchMode):
    """Follows tensors that would be on the device, by their storage."""

    def __init__(self, on_device: list[torch.Tensor]) -> None:
        super().__init__()
        self.kept: list[torch.UntypedStorage] = []  # so that an address is not used twice
        self.storages: set[int] = set()
        for tensor in on_device:
            self.follow(tensor)

    def follows(self, value: Any) -> bool:
        return (
            isinstance(value, torch.Tensor)
            and value.numel() > 0
            and value.untyped_storage().data_ptr() in self.storages
        )

    def follow(self, tensor: torch.Tensor) -> None:
        self.kept.append(tensor.untyped_storage())
        self.storages.add(tensor.untyped_storage().data_ptr())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        traced = [tensor for tensor in tensors if self.follows(tensor)]
        waits = function.overloadpacket in WAITS or any(
            t.dtype == torch.bool and function.overloadpacket in {aten.index, aten.index_put} for t in tensors[1:]
        )
        if traced and waits and not of_a_library():
            raise WaitedError(f"{function} of {[tuple(t.shape) for t in traced]}")
        result = function(*args, **kwargs or {})
        if traced:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.follow(leaf)
        return result


class Moves(TorchFunctionMode):
    """Sees tensors of the host that are moved to where others lie in a way that waits; only Python says so."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.to and not kwargs.get("non_blocking") and not of_a_library():
            moved, *where = args
            moves = any(isinstance(target, torch.Tensor | torch.device | str) for target in (*where, *kwargs.values()))
            if moves and moved.numel() and not self.trace.follows(moved):
                raise WaitedError(f"a tensor {tuple(moved.shape)} is moved")
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None and not of_a_library():
            raise WaitedError("numbers are moved")
        if function in READS and any(self.trace.follows(leaf) for leaf in tree_leaves(args)) and not of_a_library():
            raise WaitedError(f"{function} reads values")
        result = function(*args, **kwargs)
        moved = function is torch.Tensor.to and kwargs.get("non_blocking")
        made_there = kwargs.get("device") is not None and isinstance(result, torch.Tensor)
        if moved or (made_there and not of_a_library()):
            self.trace.follow(result)
        return result


def step(objective: Objective, ipc: int = 1, extend: Path | None = None, **settings: Any) -> None:
    """Two steps of a run, the second one traced; settings by group and name."""
    data = ImageDataModule("digits")
    augmentation = Augmentation(flip=0, area=(0.6, 1), noise_std=0.05)
    groups: dict[str, dict[str, Any]] = {"views": {"augmentation": augmentation}, "images": {"size": 32}, "real": {}}
    for name, value in settings.items():
        group, _, field = name.partition("_")
        groups[group][field] = value
    module = Distiller(
        create_backbone("mini"),
        objective,
        ipc=ipc,
        images=ImageSettings(**groups["images"]),
        views=ViewSettings(**groups["views"]),
        real=RealSettings(**groups["real"]),
        extend=extend,
    )
    tabicl = TabICLEvaluation(preprocessing="rotated16", n_estimators=1)
    in_context = [term for term in objective.modules() if isinstance(term, InContext)]
    original = module.training_step

    def traced(batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            return original(batch, batch_idx)
        roots = [*module.parameters(), *module.buffers()]
        if not {"real_source", "real_bank_batch_size"} & set(settings):
            roots += [part for bank in module.real.banks.values() for part in (bank(batch).z, bank(batch).y)]
        for term in in_context:
            roots += [term._preprocessing.mean, term._preprocessing.projection]
            roots += term._tabicls[0].model.state_dict().values()
        if module.images.frozen is not None:
            roots.append(module.images.frozen._views)
        if isinstance(objective, TrainedHeadGradientMatching):
            roots += [objective._weights, objective._biases]
        with Trace(roots) as trace, Moves(trace):
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
        (LinearGradientMatching(heads=2), {"views_number": 2, "views_chunk_size": 7}),
        (LinearGradientMatching(heads=2), {"views_number": 2, "images_soft_labels": True}),
        (LinearGradientMatching(heads=2), {"views_number": 1, "real_bank_batch_size": 100}),
        (LinearGradientMatching(heads=2), {"views_number": 1, "real_source": "online"}),
        (TrainedHeadGradientMatching(heads=2, probe_steps=20), {"views_number": 1}),
        (Ridge(), {"views_number": 1}),
        (InContext(queries=8, members=3), {"views_number": 0, "ipc": 2}),
        (InContext(queries=8, balanced=True, view="augmented"), {"views_number": 2}),
        (
            WeightedSum([LinearGradientMatching(heads=2), InContext(queries=8)], [0.1, 1.0], [0.0, 0.5]),
            {"views_number": 0},
        ),
        (WeightedSum([LinearGradientMatching(), InContext(query_view="augmented")], [0.1, 1.0]), {"views_number": 2}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else str(value),
)
def test_a_step_does_not_wait_for_the_device(objective, settings):
    step(objective, **settings)


def test_a_step_with_frozen_images_does_not_wait_either(tmp_path):
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    names, preprocessing = [str(digit) for digit in range(9)], Preprocessing("raw", 1)
    ContextSet(torch.randn(9, 128), torch.arange(9), names, preprocessing, images, {"ipc": 1}).save(tmp_path)
    both = [LinearGradientMatching(heads=2), LinearGradientMatching(heads=2, view="clean")]
    step(WeightedSum(both, [1.0, 1.0]), extend=tmp_path, views_number=2)


def test_waiting_is_seen():
    class Waits(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real, num_classes, generator) * float(synthetic.z.sum() > 0)

    class Counts(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real._replace(z=real.z[real.y > 3], y=real.y[real.y > 3]), 10, generator)

    class Lists(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real, max(synthetic.y.tolist()) + 1, generator)

    class Copies(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real, num_classes, generator) + 0 * synthetic.z.detach().cpu().sum()

    class Moving(LinearGradientMatching):
        def forward(self, synthetic, real, num_classes, generator):
            return super().forward(synthetic, real, num_classes, generator) * torch.ones(()).to(synthetic.z.device)

    for objective in (Waits(), Counts(), Lists(), Copies(), Moving()):
        with pytest.raises(WaitedError):
            step(objective)
