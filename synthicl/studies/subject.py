"""What is evaluated: a finished run, a context set, or a dataset alone, opened for all studies in one place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synthicl.artefact.context_set import BEST, ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.settings import RunSettings
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.images import SPLITS
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.bank import embed_clean, images_fingerprint
from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.probes.preprocessing_choice import CANDIDATES, fit_or_choose
from synthicl.probes.probe import ProbeSetting
from synthicl.studies.results import Results
from synthicl.studies.scoring import Scorer
from synthicl.tabicl.checkpoint import checkpoint_name, find_checkpoint
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing


@dataclass
class Subject:
    """Everything a study needs to know about what it evaluates.

    Attributes:
        folder: of the run or the context set; of a dataset alone, where its evaluations go.
        settings: of the run, or of the dataset, see `synthicl.core.settings.of_subject`.
        device: where backbone and TabICL run.
        elsewhere: folder for results, figures and the report in place of ``folder``.
        made_by: the command line, for the report.

    Raises:
        UserError: what is needed is missing or does not belong together.
    """

    folder: Path
    settings: RunSettings
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
        asked = self.settings.data
        data = ImageDataModule(asked.name, asked.root, asked.num_workers, asked.split_seed, asked.more)
        for found in self.context_sets.values():
            if found.class_names != data.class_names:
                names = sorted(set(found.class_names) ^ set(data.class_names)) or "their order"
                raise UserError(
                    f"--data.root={asked.root}: its classes are not those of {self.folder} ({names}). Name the folder "
                    "that the images were made from."
                )
        return data

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """The frozen backbone; a context set's own, with the weights it was made with."""
        backbone = FrozenBackbone(self.settings.backbone.name, self.settings.backbone.weights)
        return backbone.require(self.about.get("backbone_weights")).to(self.device)

    @property
    def crop_size(self) -> int:
        """Resolution in pixels that the backbone sees."""
        return int(self.about.get("crop_size") or self.settings.crop_size or self.backbone.image_size)

    @property
    def image_size(self) -> int:
        """Resolution of the synthetic images, in pixels."""
        images = self.context_sets["last"].images if self.context_sets else None
        if images is not None:
            return images.shape[-1]
        if self.settings.image_size is None:
            raise UserError(f"--model.images.size: the settings of {self.folder} do not say it.")
        return self.settings.image_size

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation that suits the dataset, whether or not the distillation used it.

        Raises:
            UserError: the settings name what it does not have, or say no numbers.
        """
        try:
            return Augmentation(**self.settings.augmentation)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.folder}: model.views.augmentation: {error}. Mend its config.yaml.") from error

    @property
    def seed(self) -> int:
        """Seed of the optimisation; 0 for a dataset alone."""
        return int(self.about.get("seed", 0))

    @property
    def split_seed(self) -> int:
        """Seed of the dataset's splits."""
        return self.settings.data.split_seed

    @property
    def ipc(self) -> int:
        """Images per class; 1 for a dataset alone."""
        return int(self.about.get("ipc", 1))

    @cached_property
    def checkpoint(self) -> Path:
        """TabICL's checkpoint; a context set's own, with the weights that it was made with."""
        choice = self.settings.tabicl.checkpoint, self.settings.tabicl.model_path
        return find_checkpoint(*choice, self.about.get("tabicl_weights"))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """TabICL's preprocessing: the context set's own, or for a dataset alone the one that val chooses."""
        if self.context_sets:
            return self.context_sets["last"].preprocessing
        tabicl, train, val = self.settings.tabicl, self.embedded("train"), self.embedded("val")
        asked = tabicl.preprocessing, tabicl.candidates or CANDIDATES, train, val, self.ipc
        return fit_or_choose(*asked, self.checkpoint, tabicl.n_estimators, self.device)

    @cached_property
    def deployment(self) -> Deployment:
        """TabICL as it is deployed with this subject."""
        return Deployment(self.preprocessing, self.identity["tabicl_checkpoint"], self.checkpoint)

    def fit_preprocessing(self, name: str, z: Tensor | None = None) -> Preprocessing:
        """A preprocessing by name, fitted on ``z`` (N, D), by default on all training embeddings."""
        members = self.settings.tabicl.n_estimators
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
            extended = {"classes_before": self.about["frozen"] // self.ipc} if "frozen" in self.about else {}
            return {name: self.about.get(name, "") for name in names} | split | extended
        choice = self.settings.tabicl.checkpoint, self.settings.tabicl.model_path
        return {
            "dataset": self.data.name,
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.fingerprint,
            "tabicl_checkpoint": checkpoint_name(*choice),
            **split,
        }

    def probe_setting(self, preprocessing: Preprocessing | None = None, seed: int = 0) -> ProbeSetting:
        """What probes are made from; ``preprocessing`` in place of the subject's own."""
        return ProbeSetting(
            deployment=replace(self.deployment, preprocessing=preprocessing) if preprocessing else self.deployment,
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
            digest.update(fingerprint(found.embeddings, found.labels, found.soft_labels).encode())
        return digest.hexdigest()[:16]

    def embedded(self, split: str) -> LabelledEmbeddings:
        """Clean embeddings of a split, from disk if they were computed before."""
        if split not in self._embedded:
            self._embedded[split] = embed(self.backbone, self.data, split, self.crop_size)
        return self._embedded[split]

    def scorer(self, command: str, results: Results, ipc: int | None = None, backbone: str | None = None) -> Scorer:
        """What puts a study's rows about this subject into ``results``; ``backbone`` if it is not the subject's."""
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
    return embed_clean(backbone, data.splits[split], crop_size, data.num_workers, f"{split} images")
