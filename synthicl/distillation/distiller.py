"""The LightningModule: wires images, backbone, objective and real side into the optimisation.

One step: decode the pyramids, augment, embed, compare with the real side, back-propagate, Adam. The mathematics is in
``objectives/`` and ``synthetic/``; memory and devices are in ``chunking.py`` and ``distributed.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from synthicl.artefact.context_set import to_uint8
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core import memory
from synthicl.core.distributed import collect_rows, gather_rows, owned, world
from synthicl.core.errors import UserError
from synthicl.core.randomness import keyed_generator
from synthicl.data.augmentation import Augmentation, AugmentationParameters
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.transforms import crop_centre
from synthicl.distillation.grad_cache import backpropagate_in_chunks, chunks
from synthicl.distillation.pyramid import SyntheticPyramid
from synthicl.distillation.real_side import Bank, OnlineBatches
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import Objective, View, Views

OWN_CLASS = 0.9  # probability of an image's own class where soft labels begin
EVALUATED_AT_ONCE = 64  # images embedded at once where nothing has been optimised
OTHER_FLAGS = {"data": "data.name", "split_seed": "data.split_seed", "backbone": "backbone.name"}  # not --model's
CHECK_EVERY = 10  # steps between two looks at whether the loss is finite


class ContextRows(NamedTuple):
    """The synthetic images as a context would hold them.

    Attributes:
        images: (n, 3, S, S), uint8, on the CPU; on other ranks than 0 only theirs.
        embeddings: (n, D), float32: clean embeddings of these 8-bit images.
        labels: (n,), class indices.
        targets: (n, C), soft labels, or None.
    """

    images: Tensor
    embeddings: Tensor
    labels: Tensor
    targets: Tensor | None = None


class Distiller(L.LightningModule):
    """Optimise ``ipc`` synthetic images per class so that an objective on their embeddings falls.

    Args:
        backbone: frozen feature extractor; the command line makes it from ``--backbone.*``.
        num_classes: C; the command line takes it from the data.
        objective: what is minimised.
        ipc: images per class.
        image_size: resolution S of the synthetic images, in pixels.
        crop_size: resolution in pixels that the backbone sees; None for the backbone's own.
        parameterisation: ``pyramid`` grows from 1 x 1 to S x S, ``pixels`` has the full resolution from the start.
        init: how new levels begin, see `SyntheticPyramid`.
        decorrelate: whether colours are stored decorrelated.
        grow_every: steps between two levels of the pyramid. The reference has 200.
        augmentation: strength of the augmentation on both sides; None for clean images.
        views: augmented views of each synthetic image in a step, for objectives that look at them; 0 shows these the
            clean image, and clean real ones. The reference has 10.
        soft_labels: whether the labels of the synthetic images are learnt as well, as probabilities.
        real: ``bank`` compares with embeddings computed once, ``online`` embeds other real images in each step, as many
            as there are synthetic views. What is clean beside augmented views comes from the bank all the same.
        bank_views: augmented views of each real image in the bank; 0 for one clean view.
        bank_batch_size: real images of the bank used in a step; None for all.
        optimizer: a class of `torch.optim` that treats every number alone, such as Adam, NAdam or SGD: what images on
            other devices do must not matter to it. Its own learning rate is not used: ``lr`` is.
        lr: learning rate. The reference has 0.002.
        lr_schedule: ``constant`` is the reference, ``cosine`` falls to zero at ``--trainer.max_steps``.
        chunk_size: most views embedded at once, what memory depends on; None for as many as fit into the memory that is
            free when a fit begins.
        compile: whether ``torch.compile`` compiles the backbone, which takes some seconds for each size of a batch.
        seed: seed of the optimisation. Backbone and splits do not depend on it.

    Raises:
        UserError: settings that do not fit together.
    """

    pyramid: SyntheticPyramid
    strict_loading = False  # the backbone is not in the checkpoint

    def __init__(
        self,
        backbone: FrozenBackbone,
        num_classes: int,
        objective: Objective,
        ipc: int = 1,
        image_size: int = 256,
        crop_size: int | None = None,
        parameterisation: Literal["pyramid", "pixels"] = "pyramid",
        init: Literal["noise", "zero"] = "noise",
        decorrelate: bool = True,
        grow_every: int = 200,
        augmentation: Augmentation | None = None,
        views: int = 10,
        soft_labels: bool = False,
        real: Literal["bank", "online"] = "bank",
        bank_views: int = 0,
        bank_batch_size: int | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, fused=True),
        lr: float = 0.002,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        chunk_size: int | None = None,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone = backbone
        self.num_classes = num_classes
        self.objective = objective
        self.ipc = ipc
        self.image_size = image_size
        self.crop_size = crop_size or backbone.image_size
        self.parameterisation = parameterisation
        self.init = init
        self.decorrelate = decorrelate
        self.grow_every = grow_every
        shown = objective.looks_at() if augmentation is not None and views else {"clean"}
        self.augmentation = augmentation if "augmented" in shown else None
        self.views = views if self.augmentation else 0
        self.clean = "clean" in shown
        self.soft_labels = soft_labels
        self.real = real
        self.bank_views = bank_views
        self.bank_batch_size = bank_batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.chunk_size = chunk_size
        self.rows_at_once = chunk_size or EVALUATED_AT_ONCE  # a fit without a chunk size finds its own
        self.seed = seed
        counts = {"ipc": ipc, "grow_every": grow_every, "chunk_size": chunk_size, "bank_batch_size": bank_batch_size}
        for least, numbers in ((1, counts), (0, {"views": views, "bank_views": bank_views})):
            for flag, value in numbers.items():
                if value is not None and value < least:
                    raise UserError(f"--model.{flag}={value}: must be at least {least}.")
        if not lr > 0:
            raise UserError(f"--model.lr={lr}: must be greater than 0.")
        if self.crop_size > image_size:
            raise UserError(
                f"--model.image_size={image_size} is smaller than the backbone's crop of {self.crop_size} px. "
                f"Raise it, or lower --model.crop_size."
            )
        try:
            backbone(torch.zeros(1, 3, self.crop_size, self.crop_size))
        except (AssertionError, ValueError) as error:
            raise UserError(f"--model.crop_size={self.crop_size}: the backbone refuses it ({error}).") from error
        try:
            optimizer([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)])
        except (TypeError, ValueError) as error:
            raise UserError(f"--model.optimizer: {error}. Choose another, such as Adam, NAdam or SGD.") from error
        if compile:
            backbone.compile()
        if soft_labels and not objective.uses_soft_labels:
            raise UserError(
                "--model.soft_labels=true: this objective knows classes only. Use ridge or lgm, or leave the flag out."
            )
        if bank_views and (augmentation is None or not views):
            raise UserError(
                f"--model.bank_views={bank_views} needs --model.augmentation and --model.views: nothing is to vary."
            )

    # Set-up

    @property
    def num_images(self) -> int:
        """Number n of synthetic images on all ranks."""
        return self.num_classes * self.ipc

    @property
    def rows_of_image(self) -> int:
        """Rows that an image has in a step: the clean one, if an objective looks at it, and its augmented views."""
        return self.clean + self.views

    @property
    def labels(self) -> Tensor:
        """Class index of each synthetic image, (n,): one class after the other."""
        return torch.arange(self.num_classes, device=self.device).repeat_interleave(self.ipc)

    def setup(self, stage: str) -> None:
        """Create this rank's images, and ask for real batches if they are seen online."""
        rank, ranks = world()
        if ranks > self.num_images:
            raise UserError(
                f"--trainer.devices: {ranks} devices for {self.num_images} images. Use at most one for each image."
            )
        if ranks > 1 and self.trainer.precision == "16-mixed":  # an overflow on one rank would be a step on the others
            raise UserError("--trainer.precision=16-mixed: not with several devices. Use bf16-mixed.")
        self.mine = owned(self.num_images, rank, ranks)
        grows = self.parameterisation == "pyramid"
        self.pyramid = SyntheticPyramid(self.mine, self.image_size, self.seed, self.init, grows, self.decorrelate)
        if self.soft_labels:
            # A softmax of these gives an image's own class OWN_CLASS, the others the same share of the rest.
            own = math.log(OWN_CLASS * (self.num_classes - 1) / (1 - OWN_CLASS))
            self.target_logits = torch.nn.Parameter(own * F.one_hot(self.labels[self.mine], self.num_classes).float())
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        if stage == "fit" and self.real == "online":
            images, batch_size = data.splits["train"], self.num_images * max(self.views, 1)
            clean = self.augmentation is None
            size = self.crop_size if clean else self.image_size
            data.batch_of_step = OnlineBatches(images, batch_size, size, self.seed, clean, rank, ranks)

    def on_fit_start(self) -> None:
        """Compute the embeddings of the training images, or read them from disk, and prepare the objective."""
        self._diverged = torch.zeros((), dtype=torch.bool, device=self.device)
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        images = data.splits["train"]
        common: dict[str, Any] = {"num_workers": data.num_workers, "what": "training images"}
        clean = embed_views(self.backbone, images, self.crop_size, **common)
        y = torch.from_numpy(images.labels)
        self.objective.prepare(LabelledEmbeddings(clean[0], y), self.device)
        self.banks: dict[View, Bank] = {}
        if self.clean and (self.real == "bank" or self.views):
            self.banks["clean"] = Bank(clean, y, self.bank_batch_size, self.seed, self.device)
        if self.views and self.real == "bank":
            z = clean
            if self.bank_views:
                z = embed_views(
                    self.backbone,
                    images,
                    self.crop_size,
                    augmentation=self.augmentation,
                    image_size=self.image_size,
                    views=self.bank_views,
                    seed=self.seed,
                    **common,
                )
            self.banks["augmented"] = Bank(z, y, self.bank_batch_size, self.seed, self.device)
        if self.chunk_size is None:
            self.rows_at_once = self.largest_chunk()

    def largest_chunk(self) -> int:
        """How many views can be embedded at once, once all levels of the pyramid exist."""
        rows, kept = len(self.mine) * self.rows_of_image, self.bytes_of_images()
        return memory.largest_chunk(rows, self.bytes_of_row(), self.device, kept, self._sharers())

    def bytes_of_row(self) -> int:
        """What a chunk keeps of one more view for its backward pass, at most: of another image."""
        last = self.rows_of_image - 1 if len(self.mine) > 1 else 0  # a view, after which another image's follows
        self._zero_gradients()
        embed = self.view_embedder(0)
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            one = memory.saved_bytes(lambda: embed(slice(last, last + 1)))
            alone = len(self.mine) * self.rows_of_image == 1
            two = 2 * one if alone else memory.saved_bytes(lambda: embed(slice(last, last + 2)))
        self.pyramid.zero_grad()
        return two - one

    def _sharers(self) -> int:
        """Processes of this run that share this device's memory."""
        processes: int = self.trainer.num_devices
        return processes if self.device.type == "cpu" else 1

    def bytes_of_images(self) -> int:
        """What this rank's images need besides a step: complete pyramids, their gradients, and two moments of Adam."""
        numbers = len(self.mine) * 3 * sum(resolution**2 for resolution in self.pyramid.resolutions)
        size: int = self.pyramid.levels[0].element_size()
        return 4 * numbers * size

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of what belongs to images, pyramids and soft labels, and of what the objective learns."""
        groups = [self.image_parameters(), self.learnt_by_objective()]
        return self.optimizer([{"params": group} for group in groups if group])

    def learnt_by_objective(self) -> list[Tensor]:
        """What the objective learns with the images."""
        return [parameter for parameter in self.objective.parameters() if parameter.requires_grad]

    def image_parameters(self) -> list[Tensor]:
        """What has a row for each of this rank's images: soft labels and levels of the pyramid."""
        return [*([self.target_logits] if self.soft_labels else []), *self.pyramid.parameters()]

    # One step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step; ``batch`` is the step number, or with ``online`` the step, real images and labels."""
        # Only the backbone runs in 16 bit: pyramids, colours and the objective stay in full precision.
        with torch.autocast(self.device.type, enabled=False):
            self._step(batch)

    def _step(self, batch: Any) -> None:
        step = int(batch[0] if self.real == "online" else batch)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        # The reference counts steps from 0 and grows when step > 1 and (step - 1) % 200 == 0.
        if step > 1 and (step - 1) % self.grow_every == 0 and not self.pyramid.is_complete:
            for level in self.pyramid.levels:
                optimizer.state.pop(level, None)  # Adam starts afresh
            self.pyramid.grow()
            optimizer.param_groups[0]["params"] = self.image_parameters()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(step)

        self.objective.advance(step / self.trainer.max_steps)

        optimizer.zero_grad()
        self._zero_gradients()
        real = self.real_embeddings(step, batch)

        # Like the loss, what the objective learns and the soft labels of all images are the same on every rank.
        learnt: list[Tensor] = self.learnt_by_objective()
        soft = gather_rows(self.targets().detach(), self.num_images).requires_grad_() if self.soft_labels else None

        def loss_of(z: Tensor) -> Tensor:
            generator = keyed_generator(self.seed, "objective", step)
            reference = Views(*(part and part._replace(z=part.z.to(z.dtype)) for part in real))
            return self.objective.loss(self.by_view(z, soft), reference, self.num_classes, generator)

        loss, gradients = backpropagate_in_chunks(
            self.view_embedder(step),
            rows=len(self.mine) * self.rows_of_image,
            chunk_size=self.rows_at_once,
            gather=lambda z: gather_rows(z, self.num_images, self.rows_of_image),
            first_row=self.mine.start * self.rows_of_image,
            loss_of=loss_of,
            backward=self.manual_backward,
            leaves=learnt if soft is None else [*learnt, soft],
        )
        if soft is not None:
            mine = slice(self.mine.start, self.mine.stop)
            self.manual_backward((self.targets() * gradients.pop()[mine]).sum())
        for parameter, gradient in zip(learnt, gradients, strict=True):
            self.manual_backward((parameter * gradient).sum())
        optimizer.step()
        self._diverged |= ~torch.isfinite(loss)
        if (step + 1) % CHECK_EVERY == 0:  # looking at the flag waits for the device
            self.raise_if_diverged()
        self.log("train/loss", loss, prog_bar=True)
        # Lightning would put a plain number on the device, and wait for it.
        self.log("train/lr", torch.tensor(self.learning_rate(step)))
        self.log("train/resolution", torch.tensor(float(self.pyramid.resolutions[len(self.pyramid.levels) - 1])))

    def on_train_end(self) -> None:
        """Export nothing that is not finite."""
        self.raise_if_diverged()

    def learning_rate(self, step: int) -> float:
        """Adam's learning rate in a step."""
        if self.lr_schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.trainer.max_steps))

    def _zero_gradients(self) -> None:
        """Give the levels the gradients that chunks add to, see `SyntheticPyramid.decode`."""
        for level in self.pyramid.levels:
            level.grad = torch.zeros_like(level)

    def view_embedder(self, step: int) -> Callable[[slice], Tensor]:
        """A function that embeds some rows: row r shows this rank's image r // R, R rows each, the clean one first."""
        rows_of_image, views, parameters = self.rows_of_image, self.views, None
        if self.augmentation is not None:
            everyone = self.augmentation.draw(self.num_images * views, self.image_size, self.seed, "synthetic", step)
            parameters = everyone[self.mine.start * views : self.mine.stop * views]

        def clean_before(row: int) -> int:
            return -(-row // rows_of_image) if self.clean else 0

        def embed(part: slice) -> Tensor:
            first, end = part.start // rows_of_image, -(-part.stop // rows_of_image)
            images = self.pyramid.decode(slice(first, end))
            rows = torch.arange(part.start, part.stop)
            clean = rows % rows_of_image == 0 if self.clean else torch.zeros(len(rows), dtype=torch.bool)

            def shown(chosen: Tensor) -> Tensor:
                of = rows[chosen] // rows_of_image - first
                if of.equal(torch.arange(len(images))):
                    return images
                return images.index_select(0, memory.to_device(of, images.device))

            if parameters is None or bool(clean.all()):
                return self._embed(self._view(shown(clean), None))
            augmented = parameters[part.start - clean_before(part.start) : part.stop - clean_before(part.stop)]
            pixels = self._view(shown(~clean), augmented)
            if clean.any():
                both = torch.cat([self._view(shown(clean), None), pixels])
                order = torch.cat([clean.nonzero(), (~clean).nonzero()])[:, 0].argsort()
                pixels = both.index_select(0, memory.to_device(order, both.device))
            return self._embed(pixels)

        return embed

    def by_view(self, z: Tensor, targets: Tensor | None) -> Views:
        """Rows (n R, D) of all images with their labels, by what they show."""
        rows = z.unflatten(0, (self.num_images, self.rows_of_image))

        def labelled(z: Tensor) -> LabelledEmbeddings:
            views = z.shape[1]
            soft = None if targets is None else targets.repeat_interleave(views, 0)
            return LabelledEmbeddings(z.flatten(0, 1), self.labels.repeat_interleave(views), views, soft)

        clean = labelled(rows[:, :1]) if self.clean else None
        return Views(clean, labelled(rows[:, self.clean :]) if self.views else clean)

    def _view(self, images: Tensor, parameters: AugmentationParameters | None) -> Tensor:
        """What the backbone sees of images (N, 3, S, S): augmented views, or the clean centre."""
        if self.augmentation is None or parameters is None:
            return crop_centre(images, self.crop_size)
        return self.augmentation.apply(images, parameters, self.crop_size)

    def _embed(self, images: Tensor) -> Tensor:
        """Embed images; what comes out of 16-bit autocast becomes float32 for the objective."""
        with self.trainer.precision_plugin.forward_context():
            z: Tensor = self.backbone(images)
        return z if z.dtype == torch.float64 else z.float()

    @torch.no_grad()
    def real_embeddings(self, step: int, batch: Any) -> Views:
        """Real embeddings of a step: from the banks, or of the batch's images, each rank embedding its share."""
        banks = {view: bank(step) for view, bank in self.banks.items()}
        if self.real == "online":
            banks["augmented" if self.views else "clean"] = self._embed_batch(step, batch)
        clean = banks.get("clean")
        return Views(clean, banks.get("augmented", clean))

    def _embed_batch(self, step: int, batch: Any) -> LabelledEmbeddings:
        _, pixels, y = batch  # this rank's images, and the labels of all
        parameters = None
        if self.augmentation is not None:
            rank, ranks = world()
            share = owned(len(y), rank, ranks)
            everyone = self.augmentation.draw(len(y), self.image_size, self.seed, "online", step)
            parameters = everyone[share.start : share.stop]
        dtype = self.pyramid.levels[0].dtype
        parts = [torch.empty(0, self.backbone.embed_dim, device=self.device)]
        for part in chunks(len(pixels), self.rows_at_once):
            images = memory.to_device(pixels[part], self.device).to(dtype) / 255
            parts.append(self._embed(self._view(images, None if parameters is None else parameters[part])))
        return LabelledEmbeddings(gather_rows(torch.cat(parts), len(y)), memory.to_device(y, self.device))

    def raise_if_diverged(self) -> None:
        """Stop if a loss was not finite.

        Raises:
            UserError: it was; the last checkpoint is from before.
        """
        finite = torch.stack([torch.isfinite(level).all() for level in self.pyramid.levels]).all()
        if bool(self._diverged | ~finite):
            raise UserError(
                f"The loss became NaN or infinite before step {self.global_step}. The last checkpoint is from before "
                "that. Lower --model.lr, or use --trainer.precision=32-true, and go on from it with CKPT=PATH."
            )

    # What others read

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: callbacks look at `context_rows`."""

    test_step = validation_step

    def targets(self) -> Tensor:
        """Soft labels of this rank's images, (n_rank, C)."""
        return self.target_logits.softmax(1)

    @torch.no_grad()
    def _mine_in_chunks(self) -> Iterator[Tensor]:
        """This rank's images, (N, 3, S, S), uint8, some at a time."""
        for part in chunks(len(self.mine), self.rows_at_once):
            yield to_uint8(self.pyramid.decode(part))

    def pixels(self) -> Tensor:
        """The synthetic images of all ranks in the memory of rank 0, (n, 3, S, S), uint8; a collective call."""
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8, device=self.device)
        return collect_rows(torch.cat([empty, *self._mine_in_chunks()]), self.num_images)

    @torch.no_grad()
    def context_rows(self) -> ContextRows:
        """The synthetic images of all ranks and their clean embeddings; a collective call."""
        images = [torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8, device=self.device)]
        parts = [torch.empty(0, self.backbone.embed_dim, device=self.device)]
        with torch.autocast(self.device.type, enabled=False):
            for some in self._mine_in_chunks():
                pixels = crop_centre(some, self.crop_size) / 255
                images.append(some)
                parts.append(self.backbone(pixels.to(self.backbone.mean.dtype)).float())
        return ContextRows(
            collect_rows(torch.cat(images), self.num_images),
            gather_rows(torch.cat(parts), self.num_images),
            self.labels,
            gather_rows(self.targets().float(), self.num_images) if self.soft_labels else None,
        )

    # Checkpoints: all images and their optimiser state, whichever ranks hold them

    def identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that resumes it must agree on."""
        return {
            "num_classes": self.num_classes,
            "ipc": self.ipc,
            "image_size": self.image_size,
            "parameterisation": self.parameterisation,
            "decorrelate": self.decorrelate,
            "soft_labels": self.soft_labels,
            "seed": self.seed,
            "optimizer": self._describe_optimizer(),
            "crop_size": self.crop_size,
            "objective": repr(self.objective),
            "backbone": f"{self.backbone.name} {self.backbone.fingerprint}",
            "data": self.trainer.datamodule.name,  # type: ignore[attr-defined]
            "split_seed": self.trainer.datamodule.split_seed,  # type: ignore[attr-defined]
        }

    def _describe_optimizer(self) -> str:
        """Class and settings, the learning rate left out."""
        optimizer = self.optimizer([torch.zeros(1, requires_grad=True)])
        given = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items() if name != "lr")
        return f"{type(optimizer).__name__}({given})"

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is optimised: the backbone does not change and stays out of the checkpoint."""
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gather images and optimiser state over ranks; a collective call."""
        if hasattr(self, "_diverged"):
            self.raise_if_diverged()
        checkpoint["distillation"] = self.identity()
        self._map_rows(checkpoint, lambda rows: collect_rows(rows.to(self.device), self.num_images))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this rank's rows of a checkpoint that any number of ranks wrote.

        Raises:
            UserError: the checkpoint is of other images than this run's.
        """
        saved = checkpoint.get("distillation")
        if saved is None:
            raise UserError(
                "--ckpt_path: not a checkpoint of a distillation. Name a file in a run's checkpoints folder."
            )
        saved = {"split_seed": 0} | saved  # what it was before it could be chosen
        for flag, value in self.identity().items():
            before = saved.get(flag, value)  # an older checkpoint may not say
            if before != value:
                flag = OTHER_FLAGS.get(flag, f"model.{flag}")
                raise UserError(
                    f"--{flag}={value}: the checkpoint was made with {before}, which cannot change when a "
                    "run goes on. Leave the flag out, or start a new run."
                )
        while f"pyramid.levels.{len(self.pyramid.levels)}" in checkpoint["state_dict"]:
            self.pyramid.grow()
        self._map_rows(checkpoint, lambda rows: rows[self.mine.start : self.mine.stop].clone())

    @staticmethod
    def _map_rows(checkpoint: dict[str, Any], function: Any) -> None:
        """Apply a function to every tensor that has a row for each image, in the state and in that of the optimiser."""
        checkpoint["state_dict"] = {
            name: tensor if name.startswith("objective.") else function(tensor)
            for name, tensor in checkpoint["state_dict"].items()
        }
        for optimizer in checkpoint.get("optimizer_states", []):
            of_images = optimizer["param_groups"][0]["params"]
            for parameter in set(of_images) & set(optimizer["state"]):
                state = optimizer["state"][parameter]
                optimizer["state"][parameter] = {
                    name: function(value) if value.ndim else value for name, value in state.items()
                }
