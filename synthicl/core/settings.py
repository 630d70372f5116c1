"""What a finished run was made with, or what a dataset alone is evaluated with: one record, read and checked here.

Imports nothing heavy: a folder or a value that is wrong is said before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import yaml

from synthicl.core.configuration import (
    CONFIGS,
    config_names,
    default_files,
    flattened,
    read_as_data,
    read_settings,
    with_included,
)
from synthicl.core.context_header import read_header
from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.core.files import ABSENT, FILE, FOLDER, kind_of
from synthicl.core.run_folder import CONTEXT_FILE

T = TypeVar("T")
D = TypeVar("D")

MAX_DRAWS = 10_000  # what takes a day where it is meant; a digit too many is a mistake
MAX_MEMBERS = 10_000
MAX_WORKERS = 1024
LEVEL = 0.95  # of --coverage and --reject where no number is given
HOST, PORT = "127.0.0.1", 7860  # of the page, unless told otherwise
MAX_SEED = 2**32 - 1  # what NumPy's RandomState takes
_AUGMENTATION = "model.views.augmentation."
ELSEWHERE = {
    "data.root": "Where the images lie, if not where they lay before.",
    "data.more": "Where those of further folders lie, likewise: [FOLDER, ...].",
    "backbone.weights": "Where the backbone's weights lie, likewise.",
    "tabicl.model_path": "Where TabICL's checkpoint lies, likewise.",
}
FOR_DATASETS = {
    "data.split_seed": "For a dataset alone: seed of the splits that it does not fix itself.",
    "backbone.name": "For a dataset alone: the backbone, if not the dataset's own.",
    "tabicl.checkpoint": "For a dataset alone: TabICL's checkpoint.",
    "tabicl.preprocessing": "For a dataset alone: TabICL's preprocessing, if val is not to choose it.",
    "tabicl.n_estimators": "For a dataset alone: members of TabICL's ensemble.",
}


@dataclass(frozen=True)
class DataSettings:
    """``data.*``: which images, where they lie, how they split, and folders of further ones."""

    name: str
    root: Path = Path("data")
    num_workers: int = 0
    split_seed: int = 0
    more: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        check_between(0, MAX_WORKERS, "--data.", num_workers=self.num_workers)
        check_between(0, MAX_SEED, "--data.", split_seed=self.split_seed)


@dataclass(frozen=True)
class BackboneSettings:
    """``backbone.*``: which one, and its weights file if it is not the bundled or downloaded one."""

    name: str
    weights: Path | None = None


@dataclass(frozen=True)
class TabICLSettings:
    """``tabicl.*``: which checkpoint, and how it is deployed; ``candidates`` is None for the usual ones."""

    checkpoint: str = "mini"
    model_path: Path | None = None
    preprocessing: str = "auto"
    n_estimators: int | None = None
    candidates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            UserError: too few members, or too many.
        """
        check_between(1, MAX_MEMBERS, "--tabicl.", n_estimators=self.n_estimators)


@dataclass(frozen=True)
class RunSettings:
    """What others read of a run's settings.

    Attributes:
        data: ``data.*``.
        backbone: ``backbone.*``.
        tabicl: ``tabicl.*``.
        image_size: ``model.images.size``, None if it is not said.
        crop_size: ``model.views.crop_size``, None for the backbone's own.
        augmentation: ``model.views.augmentation.*`` as far as it is said; the rest has its defaults.
        random_draws: how many real contexts are drawn at random.
    """

    data: DataSettings
    backbone: BackboneSettings
    tabicl: TabICLSettings = TabICLSettings()
    image_size: int | None = None
    crop_size: int | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    random_draws: int = 50

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        check_at_least(1, "--model.images.", size=self.image_size)
        check_at_least(1, "--model.views.", crop_size=self.crop_size)
        check_between(1, MAX_DRAWS, "--", random_draws=self.random_draws)

    @classmethod
    def read(cls, *layers: Layer) -> Self:
        """The record of settings that come in layers, of which later ones win; other settings are left alone.

        Raises:
            UserError: a name is missing, or a value is not of its kind; the line names the file or the flag.
        """
        read = _Reader(layers)
        augmentation = {name: value for name, value in read.values.items() if name.startswith(_AUGMENTATION)}
        return cls(
            DataSettings(
                name=read.required("data.name", text),
                root=read("data.root", path, Path("data")),
                num_workers=read("data.num_workers", whole, 0),
                split_seed=read("data.split_seed", whole, 0),
                more=read("data.more", paths, ()),
            ),
            BackboneSettings(
                name=read.required("backbone.name", text),
                weights=read("backbone.weights", path, None),
            ),
            TabICLSettings(
                checkpoint=read("tabicl.checkpoint", text, "mini"),
                model_path=read("tabicl.model_path", path, None),
                preprocessing=read("tabicl.preprocessing", text, "auto"),
                n_estimators=read("tabicl.n_estimators", whole, None),
                candidates=read("tabicl.candidates", texts, None),
            ),
            image_size=read("model.images.size", whole, None),
            crop_size=read("model.views.crop_size", whole, None),
            augmentation={name.removeprefix(_AUGMENTATION): value for name, value in augmentation.items()},
            random_draws=read("random_draws", whole, 50),
        )


class Layer(NamedTuple):
    """Settings of one origin.

    Attributes:
        values: by dotted name.
        file: that says them; None for flags.
    """

    values: Mapping[str, Any]
    file: Path | None = None


def text(value: Any) -> str:
    """A text of at least one character."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text")
    return value


def whole(value: Any) -> int:
    """A whole number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError("must be a whole number") from None


def path(value: Any) -> Path:
    """A path."""
    if isinstance(value, Path):
        return value
    return Path(text(value))


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def paths(value: Any) -> tuple[Path, ...]:
    """A list of paths, or a text that is one in YAML."""
    try:
        listed = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        listed = None
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str | Path) and str(item) for item in listed):
        raise ValueError("must be a list of folders, such as [more/]")
    return tuple(map(Path, listed))


class _Reader:
    """Values by name, with the origin of each for messages."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self.values = {name: value for layer in layers for name, value in layer.values.items()}

    def __call__(self, name: str, kind: Callable[[Any], T], default: D) -> T | D:
        """A value of its kind; the default where it is not said, or null."""
        value = self.values.get(name)
        if value is None:
            return default
        try:
            return kind(value)
        except ValueError as error:
            file = next(layer.file for layer in reversed(self.layers) if name in layer.values)
            said = f"--{name}={value}" if file is None else f"{file}: {name}: {value!r}"
            raise UserError(f"{said} {error}.") from error

    def required(self, name: str, kind: Callable[[Any], T]) -> T:
        """A value that has to be said."""
        value = self(name, kind, None)
        if value is None:
            raise UserError(f"{self.layers[-1].file or self.layers[0].file}: {name} is missing.")
        return value


def of_run(folder: Path) -> RunSettings:
    """The settings that a run was made with.

    Raises:
        UserError: the folder is not a run's, or its config.yaml is not one.
    """
    return RunSettings.read(_run_layer(folder))


def of_subject(what: str, given: Mapping[str, Any]) -> tuple[Path, RunSettings]:
    """The folder and the settings of what is to be evaluated.

    Args:
        what: folder of a run, folder of a context set, or name of a dataset.
        given: settings that were asked for as dotted names, None where nothing was: `ELSEWHERE`, `FOR_DATASETS`.

    Raises:
        UserError: it is none of the three, or a setting was given that the context set fixes.
    """
    folder, asked = Path(what), {flag: value for flag, value in given.items() if value is not None}
    if folder.is_symlink():  # ``latest`` may move while this runs
        folder = folder.parent / folder.readlink()
    if (folder / CONTEXT_FILE).is_file():
        for flag in FOR_DATASETS:
            if flag in asked:
                raise UserError(f"--{flag}={asked[flag]}: {what} has its own, which is what is scored. Leave it out.")
        if (folder / "config.yaml").is_file():
            return folder, RunSettings.read(_run_layer(folder), Layer(asked))
        return folder, RunSettings.read(*_context_layers(folder), Layer(asked))
    if what in config_names("data"):
        settings = RunSettings.read(_dataset_layer(what), Layer(asked))
        return Path("outputs") / what / "evaluation" / settings.backbone.name, settings
    if (folder / "config.yaml").is_file():
        raise UserError(
            f"{what}: this run has not come to its end ({folder} has no {CONTEXT_FILE}). It resumes from its last "
            f"checkpoint with synthicl fit --ckpt_path={folder}/checkpoints/last.ckpt."
        )
    known = ", ".join(config_names("data"))
    raise UserError(
        f"{what}: neither a folder with a context set ({CONTEXT_FILE}, made by a finished run) nor a dataset. "
        f"Name a folder such as outputs/digits/latest, or one of: {known}."
    )


def extended_run(run: str) -> Path:
    """The folder of a finished run that is to be extended, whole and without ``latest``, which moves.

    Raises:
        UserError: it is none.
    """
    folder = Path(run)
    if kind_of(folder) != FOLDER:
        raise UserError(
            f"--extend={run[:100]}: not a folder. Name that of a finished run, such as outputs/digits/latest."
        )
    folder = folder.resolve()
    if (folder / "checkpoints").is_dir() and kind_of(folder / CONTEXT_FILE) == ABSENT:
        raise UserError(
            f"--extend={run}: this run has not come to its end ({folder} has no {CONTEXT_FILE}). It resumes with "
            f"synthicl fit --ckpt_path={folder}/checkpoints/last.ckpt."
        )
    try:
        read_header(folder)
    except UserError as error:
        raise UserError(f"--extend: {error}") from error
    if kind_of(folder / "config.yaml") != FILE:
        raise UserError(f"--extend={run}: config.yaml is missing, which says what the run was made with.")
    return folder


def context_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a context set, without importing torch.

    Raises:
        UserError: the file is damaged.
    """
    return read_header(folder).metadata


def _run_layer(folder: Path) -> Layer:
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder}: config.yaml is missing. Name the folder of a run, such as outputs/digits/latest.")
    return Layer(flattened(read_as_data(file)), file)


def _dataset_layer(name: str) -> Layer:
    """What ``make distill DATASET=name`` would start from; another package's dataset has no file here."""
    file = CONFIGS / "data" / f"{name}.yaml"
    own = with_included(file) if name in config_names("data") else []
    return Layer(read_settings([*default_files(), *own]), file)


def _context_layers(folder: Path) -> tuple[Layer, Layer]:
    """What an exported context set says about itself, over what its dataset starts from."""
    about = context_metadata(folder)
    if missing := {"dataset", "backbone", "tabicl_checkpoint"} - set(about):
        raise UserError(
            f"{folder}: the context set does not say what it was made of (no {', '.join(sorted(missing))}), so "
            "there is nothing to evaluate it on. Name the folder of a run or of an exported context set."
        )
    own = {
        "data.name": about["dataset"],
        "data.split_seed": about.get("split_seed", 0),
        "backbone.name": about["backbone"],
        "tabicl.checkpoint": about["tabicl_checkpoint"],
    }
    return _dataset_layer(about["dataset"]), Layer(own, folder / CONTEXT_FILE)
