"""What is evaluated: a finished run, a context set, or a dataset alone, opened for all commands in one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synthicl.artefact.context_set import BEST, ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.assets import obtain
from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.images import SPLITS
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.bank import fingerprint as images_fingerprint
from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.probes.preprocessing_choice import CANDIDATES, choose_preprocessing
from synthicl.probes.probe import ProbeSetting
from synthicl.studies.results import Results
from synthicl.studies.scoring import Scorer
from synthicl.tabicl.checkpoint import checkpoint_asset
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing


@dataclass
class Subject:
    """Everything a command needs to know about what it evaluates.

    Attributes:
        folder: of the run or the context set; of a dataset alone, where its evaluations go.
        config: settings as dotted names, see `synthicl.cli.preflight.subject_config`.
        device: where backbone and TabICL run.
        elsewhere: folder for results, figures and the report in place of ``folder``.
        made_by: the command line, for the report.

    Raises:
        UserError: what is needed is missing or does not belong together.
    """

    folder: Path
    config: Mapping[str, Any]
    device: torch.device | str = "cpu"
    elsewhere: Path | None = None
    made_by: str = ""
    _embedded: dict[str, LabelledEmbeddings] = field(default_factory=dict, repr=False)

    @property
    def output(self) -> Path:
        """Where results, figures and the report go."""
        return self.elsewhere or self.folder

    @cached_property
    def context_sets(self) -> dict[str, ContextSet]:
        """The synthetic context sets by checkpoint, ``last`` and ``best_on_val``; none for a dataset alone."""
        folders = {"last": self.folder, BEST: self.folder / BEST}
        return {name: ContextSet.load(path) for name, path in folders.items() if (path / CONTEXT_FILE).is_file()}

    @cached_property
    def about(self) -> dict[str, Any]:
        """Metadata of the context set, empty for a dataset alone."""
        return self.context_sets["last"].metadata if self.context_sets else {}

    @cached_property
    def data(self) -> ImageDataModule:
        """The dataset; a context set's own classes."""
        root = Path(self.config["data.root"])
        workers = int(self.config["data.num_workers"])
        data = ImageDataModule(self.config["data.name"], root, workers, self.split_seed)
        for found in self.context_sets.values():
            if found.class_names != data.class_names:
                names = sorted(set(found.class_names) ^ set(data.class_names)) or "their order"
                raise UserError(
                    f"--data.root={root}: its classes are not those of {self.folder} ({names}). Name the folder that "
                    "the images were made from."
                )
        return data

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """The frozen backbone; a context set's own, with the weights it was made with."""
        backbone = FrozenBackbone(self.config["backbone.name"], self.config["backbone.weights"]).to(self.device)
        made_with = self.about.get("backbone_weights", backbone.fingerprint)
        if backbone.fingerprint != made_with:
            raise UserError(
                f"--backbone.weights: these weights ({backbone.fingerprint}) are not those the run was made with "
                f"({made_with}). Supply the same file."
            )
        return backbone

    @property
    def crop_size(self) -> int:
        """Resolution in pixels that the backbone sees."""
        return int(self.about.get("crop_size") or self.config.get("model.views.crop_size") or self.backbone.image_size)

    @property
    def image_size(self) -> int:
        """Resolution of the synthetic images, in pixels."""
        images = self.context_sets["last"].images if self.context_sets else None
        if images is not None:
            return images.shape[-1]
        return int(self.config["model.images.size"])

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation that suits the dataset, whether or not the distillation used it."""
        prefix = "model.views.augmentation."
        return Augmentation(**{k.removeprefix(prefix): v for k, v in self.config.items() if k.startswith(prefix)})

    @property
    def seed(self) -> int:
        """Seed of the optimisation; 0 for a dataset alone."""
        return int(self.about.get("seed", 0))

    @property
    def split_seed(self) -> int:
        """Seed of the dataset's splits."""
        return int(self.config["data.split_seed"])

    @property
    def ipc(self) -> int:
        """Images per class; 1 for a dataset alone."""
        return int(self.about.get("ipc", 1))

    @cached_property
    def checkpoint(self) -> Path:
        """TabICL's checkpoint; a context set's own, with the weights that it was made with."""
        path = obtain(checkpoint_asset(self.config["tabicl.checkpoint"], self.config["tabicl.model_path"]))
        made_with = self.about.get("tabicl_weights")
        if made_with not in (None, file_fingerprint(path)):
            raise UserError(
                f"--tabicl.model_path={path}: these weights ({file_fingerprint(path)}) are not those the run was made "
                f"with ({made_with}). Supply the same file, or compare with another by --checkpoints."
            )
        return path

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """TabICL's preprocessing: the context set's own, or for a dataset alone the one that val chooses."""
        if self.context_sets:
            return self.context_sets["last"].preprocessing
        members = self.config["tabicl.n_estimators"]
        if self.config["tabicl.preprocessing"] != "auto":
            return self.fit_preprocessing(self.config["tabicl.preprocessing"])
        train, val = self.embedded("train"), self.embedded("val")
        candidates = self.config.get("tabicl.candidates", CANDIDATES)
        return choose_preprocessing(candidates, train, val, self.ipc, self.checkpoint, members, self.device)[0]

    def fit_preprocessing(self, name: str, z: Tensor | None = None) -> Preprocessing:
        """A preprocessing by name, fitted on ``z`` (N, D), by default on all training embeddings."""
        members = self.config["tabicl.n_estimators"]
        if self.context_sets:
            members = self.context_sets["last"].preprocessing.n_estimators
        if name == "post":  # is what the post did, its number of members included
            members = None
        return fit_preprocessing(name, self.embedded("train").z if z is None else z, members)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What identifies the run in results.json."""
        # Results from before the seed could be chosen do not say it, and stay valid.
        split = {"split_seed": self.split_seed} if self.split_seed else {}
        if self.context_sets:
            names = ("dataset", "backbone", "backbone_weights", "objective", "tabicl_checkpoint")
            return {name: self.about[name] for name in names} | split
        own = self.config["tabicl.model_path"]
        return {
            "dataset": self.data.name,
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.fingerprint,
            "tabicl_checkpoint": self.config["tabicl.checkpoint"] if own is None else Path(own).name,
            **split,
        }

    def probe_setting(self, preprocessing: Preprocessing | None = None, seed: int = 0) -> ProbeSetting:
        """What probes are made from; ``preprocessing`` in place of the subject's own."""
        return ProbeSetting(
            preprocessing=preprocessing or self.preprocessing,
            model_path=self.checkpoint,
            device=self.device,
            backbone=self.backbone,
            crop_size=self.crop_size,
            augmentation=self.augmentation,
            seed=seed,
        )

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the subject: images, weights of backbone and TabICL, context sets."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        for split in SPLITS:
            digest.update(images_fingerprint(self.data.splits[split]).encode())
        digest.update(self.backbone.fingerprint.encode())
        digest.update(file_fingerprint(self.checkpoint).encode())
        for found in self.context_sets.values():
            digest.update(fingerprint(found.embeddings, found.labels, found.targets).encode())
        return digest.hexdigest()[:16]

    def embedded(self, split: str) -> LabelledEmbeddings:
        """Clean embeddings of a split, from disk if they were computed before."""
        if split not in self._embedded:
            self._embedded[split] = embed(self.backbone, self.data, split, self.crop_size)
        return self._embedded[split]

    def scorer(self, command: str, results: Results, ipc: int | None = None, backbone: str | None = None) -> Scorer:
        """What puts a command's rows about this subject into ``results``; ``backbone`` if it is not the subject's."""
        return Scorer(
            results=results,
            folder=self.output,
            command=command,
            seed=self.seed,
            ipc=ipc or self.ipc,
            run=self.identity,
            backbone=backbone or self.backbone.name,
            subject=self.fingerprint,
            made_by=self.made_by,
        )

    def images(self, indices: Tensor) -> Tensor:
        """Training images as squares of `image_size`, (n, 3, S, S), uint8."""
        squares = SquareImages(self.data.splits["train"], self.image_size)
        return torch.stack([squares[int(index)] for index in indices])


def embed(backbone: FrozenBackbone, data: ImageDataModule, split: str, crop_size: int) -> LabelledEmbeddings:
    """Clean embeddings of a split with some backbone."""
    images = data.splits[split]
    z = embed_views(backbone, images, crop_size, num_workers=data.num_workers, what=f"{split} images")
    return LabelledEmbeddings(z[0], torch.from_numpy(images.labels))
