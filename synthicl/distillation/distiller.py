"""The LightningModule: wires images, backbone, objective and real side into the optimisation.

One step: decode the pyramids, augment, embed, compare with the real side, back-propagate, Adam. What it wires lies
beside it: ``images.py``, ``views.py``, ``real_side.py``, ``step.py``, ``grad_cache.py``, ``checkpoint.py``; the
mathematics is in ``synthicl/objectives``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.distributed import world
from synthicl.core.errors import UserError, check_at_least, check_positive
from synthicl.core.randomness import keyed_generator
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.checkpoint import (
    IDENTITY,
    check_identity,
    gather_images,
    identity,
    number_of_levels,
    take_images,
)
from synthicl.distillation.checkpoint_files import seal
from synthicl.distillation.frozen import FrozenImages, check_classes, check_settings, identity_of
from synthicl.distillation.images import ImageSettings, SyntheticImages
from synthicl.distillation.real_side import RealSettings, RealSide
from synthicl.distillation.step import Schedule, backpropagate, learning_rate
from synthicl.distillation.views import Viewer, ViewSettings
from synthicl.objectives import Objective
from synthicl.tabicl.deployment import Deployment

CHECK_EVERY = 10  # steps between two looks at whether the loss is finite


class Distiller(L.LightningModule):
    """Optimise ``ipc`` synthetic images per class so that an objective on their embeddings falls.

    Args:
        backbone: frozen feature extractor; the command line makes it from ``--backbone.*``.
        objective: what is minimised.
        ipc: images per class.
        images: how the synthetic images are stored.
        views: what the backbone is shown in a step, and how much at once.
        real: what the synthetic images are compared with.
        optimizer: a class of `torch.optim` that treats every number alone, such as Adam, NAdam or SGD: what images on
            other devices do must not matter to it. Its own learning rate is not used: ``lr`` is.
        lr: learning rate. The reference has 0.002.
        lr_schedule: ``constant`` is the reference, ``cosine`` falls to zero at ``--trainer.max_steps``.
        seed: seed of the optimisation. Backbone and splits do not depend on it.
        extend: folder of a finished run whose images stay as they are: those of the other classes of the dataset are
            optimised beside them. The command line makes it from ``--extend``.

    Attributes:
        images: the synthetic images, from `setup` on.
        viewer: shows images to the backbone.
        deployment: the TabICL that the images are for, from the beginning of a stage on: ``TabICLEvaluation``, which a
            Trainer of this module needs among its callbacks, chooses it and hands it over.

    Raises:
        UserError: settings that do not fit together.
    """

    images: SyntheticImages
    deployment: Deployment
    strict_loading = False  # the backbone is not in the checkpoint

    def __init__(
        self,
        backbone: FrozenBackbone,
        objective: Objective,
        ipc: int = 1,
        images: ImageSettings = ImageSettings(),
        views: ViewSettings = ViewSettings(),
        real: RealSettings = RealSettings(),
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, fused=True),
        lr: float = 0.002,
        lr_schedule: Schedule = "constant",
        seed: int = 0,
        extend: Path | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_at_least(1, "--model.", ipc=ipc)
        check_positive("--model.", lr=lr)
        real.check_with(views)
        if images.soft_labels and not objective.uses_soft_labels:
            raise UserError(
                "--model.images.soft_labels=true: this objective knows classes only. Use ridge or lgm, or leave the "
                "flag out."
            )
        try:
            optimizer([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)])
        except (TypeError, ValueError) as error:
            raise UserError(f"--model.optimizer: {error}. Choose another, such as Adam, NAdam or SGD.") from error
        self.backbone = backbone
        self.objective = objective
        self.ipc = ipc
        self.image_settings = images
        self.viewer = Viewer(backbone, views, objective.looks_at(), images.size, seed)
        self.real_settings = real
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.extended = None if extend is None else ContextSet.load(extend)
        if self.extended is not None:
            same = {
                "backbone": ("backbone.name", backbone.name),
                "backbone_weights": ("backbone.weights", backbone.fingerprint),
                "crop_size": ("model.views.crop_size", self.viewer.crop_size),
                "size": ("model.images.size", images.size),
                "soft_labels": ("model.images.soft_labels", images.soft_labels),
                "ipc": ("model.ipc", ipc),
            }
            check_settings(self.extended, same)

    def setup(self, stage: str) -> None:
        """Create this rank's images.

        Raises:
            UserError: the devices are too many, or one's overflow would be a step on the others, or the dataset is not
                one that extends the run.
        """
        if world()[1] > 1 and self.trainer.precision == "16-mixed":
            raise UserError("--trainer.precision=16-mixed: not with several devices. Use bf16-mixed.")
        frozen, classes = None, self._data.num_classes
        if self.extended is not None:
            check_classes(self.extended, self._data.class_names)
            frozen = FrozenImages(self.extended, classes)
        self.images = SyntheticImages(self.image_settings, classes, self.ipc, self.seed, frozen)
        self.viewer.autocast = self.trainer.precision_plugin.forward_context

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of what belongs to images, pyramids and soft labels, and of what the objective learns."""
        groups = [list(self.images.parameters()), self.objective.learnt_parameters()]
        return self.optimizer([{"params": group} for group in groups if group])

    def on_fit_start(self) -> None:
        """Compute the embeddings of the training images, or read them from disk, and prepare the objective."""
        self._diverged = torch.zeros((), dtype=torch.bool, device=self.device)
        settings, total = self.real_settings, len(self.images.all_labels)
        if self.images.frozen is not None:
            viewer = self.viewer
            seen = viewer.backbone, viewer.crop_size, viewer.augmentation, viewer.views
            self.images.frozen.embed_views(*seen, self.seed)
            if self.trainer.is_global_zero:
                print(self.images.frozen.said(self._data.class_names, self._data.splits["train"]), flush=True)
        self.real = RealSide(settings, self.viewer, self._data, total, self.seed, self.device)
        if self.real.online is not None:
            self._data.batch_of_step = self.real.online
        self.objective.prepare(self.real.train, self.deployment, self.device)
        processes: int = self.trainer.num_devices
        self.viewer.fit_into_memory(self.images, sharers=processes if self.device.type == "cpu" else 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step; ``batch`` is what `RealSide` needs to know about it."""
        step, optimizer = self.real.step_of(batch), self.optimizers()
        assert not isinstance(optimizer, list)
        rate = learning_rate(self.lr, self.lr_schedule, step, self.trainer.max_steps)
        self.images.grow_when_due(step, optimizer.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.objective.advance(step / self.trainer.max_steps)
        optimizer.zero_grad()
        self.images.zero_gradients()

        def generator() -> torch.Generator:
            return keyed_generator(self.seed, "objective", step)

        # Only the backbone runs in 16 bit: pyramids, colours and the objective stay in full precision.
        with torch.autocast(self.device.type, enabled=False):
            real, backward = self.real(batch), self.manual_backward
            loss = backpropagate(self.images, self.viewer, self.objective, real, step, generator, backward)
            optimizer.step()
        self._diverged |= ~torch.isfinite(loss)
        if (step + 1) % CHECK_EVERY == 0:  # looking at the flag waits for the device
            self._raise_if_diverged()
        self.log("train/loss", loss, prog_bar=True)
        # Lightning would put a plain number on the device, and wait for it.
        self.log("train/lr", torch.tensor(rate))
        self.log("train/resolution", torch.tensor(float(self.images.pyramid.resolution)))

    def on_train_end(self) -> None:
        """Export nothing that is not finite."""
        self._raise_if_diverged()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: callbacks look at the images."""

    test_step = validation_step

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is optimised: the backbone does not change and stays out of the checkpoint."""
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gather images and optimiser state over ranks; a collective call."""
        if hasattr(self, "_diverged"):
            self._raise_if_diverged()
        checkpoint[IDENTITY] = self.identity(self._data)
        gather_images(checkpoint, self.images.total, self.device)
        seal(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this rank's rows of a checkpoint that any number of ranks wrote.

        Raises:
            UserError: the checkpoint is of other images than this run's.
        """
        check_identity(checkpoint, self.identity(self._data))
        while len(self.images.pyramid.levels) < number_of_levels(checkpoint):
            self.images.pyramid.grow()
        take_images(checkpoint, self.images.mine)

    @property
    def _data(self) -> ImageDataModule:
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def identity(self, data: ImageDataModule) -> dict[str, Any]:
        """What a checkpoint of this module on a dataset says of itself, see `check_identity`."""
        extends = None if self.extended is None else identity_of(self.extended)
        what = self.image_settings, self.ipc, self.viewer, self.objective, self.optimizer
        return identity(*what, data, self.seed, extends)

    def _raise_if_diverged(self) -> None:
        """Stop if a loss was not finite; the last checkpoint is from before."""
        if bool(self._diverged | ~self.images.all_finite()):
            raise UserError(
                f"The loss became NaN or infinite before step {self.global_step}. The last checkpoint is from before "
                "that. Lower --model.lr, or use --trainer.precision=32-true, and resume it with --ckpt_path=PATH."
            )
