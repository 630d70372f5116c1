"""The Lightning CLI behind ``train.py``: which settings exist, and how Trainer, callbacks and folders come together."""

from __future__ import annotations

import logging
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.cli.command_line import EARLY, agree, split, with_defaults
from synthicl.cli.evaluate import evaluate, program
from synthicl.core.configuration import CONFIGS, default_files
from synthicl.core.distributed import ImageParallelStrategy
from synthicl.core.errors import UserError, check_between
from synthicl.core.files import disk_error, write_whole
from synthicl.core.memory import free_bytes
from synthicl.core.run_folder import CONTEXT_FILE, check_writable, next_version, point_latest
from synthicl.core.settings import MAX_DRAWS
from synthicl.core.words import words_of_objective
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.callbacks.cost import Cost
from synthicl.distillation.callbacks.export import Export
from synthicl.distillation.callbacks.image_grid import ImageGrid
from synthicl.distillation.callbacks.probe_evaluation import ProbeEvaluation
from synthicl.distillation.callbacks.progress import DistillationProgress
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.checkpoint import check_identity
from synthicl.distillation.checkpoint_files import SCORE, RunCheckpoint, WholeFiles, read_checkpoint
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.frozen import check_classes
from synthicl.distillation.images import bytes_of_images
from synthicl.studies.compare import COMPARE
from synthicl.studies.publish import TEST_IS_SCORED

TABLE = {
    "contexts": ("random", "centroid", "class_mean", "all"),
    "probes": ("tabicl", "linear"),
    "splits": ("val",),
}
"""What the table at the end of a fit holds; ``synthicl compare`` has more, and scores test."""


def _folder(trainer: L.Trainer) -> Path:
    """The run's folder, without a collective call: ``trainer.log_dir`` is one."""
    assert isinstance(trainer.logger, TensorBoardLogger)
    return Path(trainer.logger.log_dir)


class SaveConfig(SaveConfigCallback):
    """Write config.yaml whole, into the run's folder."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Only a fit has a folder of its own."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the folder of a new run.

        Raises:
            UserError: a run that was started at the same moment has taken it.
        """
        if stage == "fit" and trainer.is_global_zero and not self.config["ckpt_path"]:
            path = _folder(trainer) / "config.yaml"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(exist_ok=False)
            except FileExistsError as error:
                raise UserError(f"{path.parent}: taken by a run started at the same moment. Start again.") from error
            except OSError as error:
                raise disk_error(path.parent, error) from error
            self._write(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write down what a run resumes with: its checkpoint has not refused it."""
        if trainer.is_global_zero and self.config["ckpt_path"]:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        """Write the configuration, and let ``latest`` point to the run."""
        config = self.config.clone()
        config["ckpt_path"] = None  # starting from this file is a new run
        config["include"] = None  # nothing is left to be said by others
        text = self.parser.dump(config, skip_none=False)
        run = _folder(trainer)
        write_whole(run / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        point_latest(run)


def check_trainer_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what the optimisation has no meaning for, and what Lightning would refuse in words of its own.

    Raises:
        UserError: one line that names the flag.
    """
    allowed: dict[str, tuple[Any, ...]] = {
        "precision": (None, "32-true", "64-true", "bf16-mixed", "16-mixed", 32, "32", 64, "64"),
        "strategy": ("auto", "ddp"),  # several devices share the images out, whatever is asked
        "fast_dev_run": (False, 0),
        # The batch of a step is a function of its number, and a run is one epoch.
        "limit_train_batches": (None, 1.0),
        "overfit_batches": (0.0,),
        "check_val_every_n_epoch": (None,),
        "accumulate_grad_batches": (1,),
        "reload_dataloaders_every_n_epochs": (0,),
        # A validation is one batch, without which nothing is scored.
        "limit_val_batches": (None, 1.0, 1),
        "limit_test_batches": (None, 1.0, 1),
        "limit_predict_batches": (None, 1.0, 1),
        # The gradient is the images' own, and each rank's.
        "gradient_clip_val": (None,),
        "gradient_clip_algorithm": (None,),
        # The run's folder has TensorBoard's files and the checkpoints.
        "logger": (None, True),
        "enable_checkpointing": (None, True),
        "barebones": (False,),
        "plugins": (None, []),
    }
    for name, values in allowed.items():
        if settings[name] not in values:
            words = ", ".join(str(value) for value in values if isinstance(value, str) and not value.isdigit())
            choice = f"Choose {words}." if words else "Leave it out."
            raise UserError(f"--trainer.{name}={settings[name]}: not possible here. {choice}")
    if not 1 <= settings["max_steps"] < 2**63:
        raise UserError(f"--trainer.max_steps={settings['max_steps']}: must be at least 1, and below 2^63.")
    counts = ("max_epochs", -1), ("min_epochs", None), ("min_steps", None), ("num_sanity_val_steps", -1)
    for name, none in counts:
        value = settings[name]
        least = 0 if name == "num_sanity_val_steps" else 1
        if value not in (None, none) and not least <= value < 2**63:
            raise UserError(f"--trainer.{name}={value}: must be at least {least}. Leave it out.")
    for name, least in (("num_nodes", 1), ("log_every_n_steps", 0)):
        if not least <= settings[name] < 2**63:
            raise UserError(f"--trainer.{name}={settings[name]}: must be at least {least}.")
    _check_validation_interval(settings["val_check_interval"])
    if settings["max_time"] is not None and not _is_positive_time(settings["max_time"]):
        raise UserError(f"--trainer.max_time={settings['max_time']}: no time. Write DD:HH:MM:SS, such as 00:01:30:00.")
    _check_devices(settings["devices"])


def _check_validation_interval(value: Any) -> None:
    """Check ``--trainer.val_check_interval``: steps, a share of the run, or a time.

    Raises:
        UserError: it is none of the three.
    """
    if isinstance(value, bool | None):
        fits = value is None
    elif isinstance(value, int | float):
        fits = value >= 1 if isinstance(value, int) else 0 < value <= 1
    else:
        fits = _is_positive_time(value)
    if not fits:
        raise UserError(
            f"--trainer.val_check_interval={value}: must be a number of steps, at least 1, or a share of the run "
            "above 0 and up to 1.0."
        )


def _is_positive_time(value: Any) -> bool:
    """Whether Lightning reads a time of at least a second in it."""
    try:
        return Timer(timedelta(**value) if isinstance(value, dict) else value).time_remaining() >= 1  # type: ignore[operator]
    except Exception:  # Lightning's and Python's, whatever the text was
        return False


def _check_devices(value: Any) -> None:
    """Check ``--trainer.devices``: ``auto``, -1 for all, a number, or a list of numbers.

    Raises:
        UserError: it is none of these.
    """
    numbers = value if isinstance(value, list) else str(value).strip("[] ,").split(",")
    listed = isinstance(value, list) or "," in str(value)
    fits = all(re.fullmatch(r"\d{1,4}", str(number).strip()) for number in numbers) and bool(numbers)
    if fits and not listed:
        fits = int(numbers[0]) > 0
    if fits and listed:
        fits = len({int(number) for number in numbers}) == len(numbers)
    if not fits and str(value) not in ("auto", "-1"):
        raise UserError(f"--trainer.devices={value}: must be auto, a number of at least 1, or a list such as [0,1].")


def copy(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer, the list of callbacks copied: Lightning appends to the one it is given."""
    return {name: list(value) if name == "callbacks" else value for name, value in kwargs.items()}


class Logger(TensorBoardLogger):
    """TensorBoard without Lightning's ``epoch``, which says nothing here: a run is counted in steps."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what is not the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


HYPERPARAMETERS = (
    *("data.name", "data.split_seed", "backbone.name", "tabicl.checkpoint", "model.ipc"),
    *("model.seed", "model.lr", "model.lr_schedule", "model.images.grow_every", "model.views.number"),
    *("model.real.source", "trainer.max_steps", "trainer.precision"),
)
"""What TensorBoard compares runs by; config.yaml has every setting."""


class LogHyperparameters(L.Callback):
    """Put the settings that matter into TensorBoard's hparams, with the last accuracies on val as their metrics.

    Args:
        settings: by dotted name.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log them; without a validation there is no metric to show."""
        found = {probe: trainer.callback_metrics.get(f"val/{probe}_accuracy") for probe in ("tabicl", "linear")}
        if found["tabicl"] is None or not isinstance(trainer.logger, TensorBoardLogger):
            return
        shown = {name: self.settings.get(name) for name in HYPERPARAMETERS}
        shown["tabicl.preprocessing"] = TabICLEvaluation.of(trainer).preprocessing
        shown["model.objective"] = words_of_objective(repr(pl_module.objective))
        metrics = {f"hparams/val_{probe}_accuracy": value for probe, value in found.items() if value is not None}
        trainer.logger.log_hyperparams(shown, metrics)


class DistillCLI(LightningCLI):
    """fit, validate and test, with ``--backbone.*``, ``--tabicl.*`` and ``--output_dir`` beside Lightning's groups.

    Args:
        began: told the folder of the run, once there is one.
        args: of Lightning's.
        settings: likewise.
    """

    def __init__(self, began: Callable[[Path], object], *args: Any, **settings: Any) -> None:
        self.began = began
        super().__init__(*args, **settings)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """There is nothing to ``predict``: the module holds images, not a classifier."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups, and the links between them."""
        parser.add_argument("--output_dir", default="outputs", help="Runs go to <output_dir>/<dataset>/version_<n>.")
        parser.add_argument("--random_draws", type=int, default=50, help="Random contexts in the final table.")
        # Read before this parser: synthicl.cli.command_line.expand.
        parser.add_argument(
            "--include", type=list[str] | None, help="In a file: files in configs/ that come before it."
        )
        parser.add_argument(
            "--extend",
            type=Path | None,
            help="Folder of a finished run: its images stay, and those of the classes in --data.root are optimised.",
        )
        parser.link_arguments("extend", "model.extend")
        parser.add_class_arguments(FrozenBackbone, "backbone")
        parser.add_lightning_class_args(TabICLEvaluation, "tabicl")
        parser.link_arguments("backbone", "model.backbone", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, check that what was read before torch was loaded is what this parser reads, and check ranges.

        Raises:
            UserError: one line that names the flag.
        """
        super().parse_arguments(parser, args)
        assert isinstance(args, list)
        settings = self.config[self.config["subcommand"]]
        # As it is called wherever the package lies: a report is published, and need not say where that is.
        named = (argument.replace(f"--config={CONFIGS}{os.sep}", "--config=", 1) for argument in args)
        self.made_by = shlex.join([program(), *named])
        agree(with_defaults(split(args)[1]), settings.get, EARLY)
        check_trainer_settings(settings["trainer"])
        check_between(1, MAX_DRAWS, "--", random_draws=settings["random_draws"])
        if settings["weights_only"] is not True:
            raise UserError(f"--weights_only={settings['weights_only']}: checkpoints are data here. Leave it out.")
        if settings["seed_everything"] not in (False, True):
            check_between(0, 2**32 - 1, "--", seed_everything=settings["seed_everything"])

    def _parse_ckpt_path(self) -> None:
        """Take no settings from inside a checkpoint: Lightning would import the class that they name."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the Trainer with the project's logger and callbacks; several devices share the images out."""
        settings = self.config[self.subcommand]
        checkpoint = settings.get("ckpt_path")
        extended: ContextSet | None = self.model.extended
        if extended is not None:
            check_classes(extended, self.datamodule.class_names)
        if checkpoint:  # a run that resumes stays in its folder
            run = Path(checkpoint).resolve().parent.parent
        else:
            folder = Path(settings["output_dir"]) / settings["data"]["name"]
            if self.subcommand == "fit":
                check_writable(folder, f"--output_dir={settings['output_dir']}")
            run = folder / next_version(folder)
        if self.subcommand == "fit":
            if checkpoint:
                self._check_checkpoint(checkpoint)
            self.began(run)
            kwargs["logger"] = Logger(run.parent.parent, run.parent.name, run.name, default_hp_metric=False)
            kwargs["plugins"] = [WholeFiles()]
            asked = self._get(self.config_init, "trainer.callbacks") or []
            with_linear = any(
                isinstance(callback, ProbeEvaluation) and callback.probe == "linear" for callback in asked
            )
            kwargs["callbacks"] = [
                *asked,
                *([] if with_linear else [ProbeEvaluation("linear")]),
                ImageGrid(),
                Cost(),
                *([] if settings["trainer"]["enable_progress_bar"] is False else [DistillationProgress()]),
                LogHyperparameters(settings),
                # Both are written at validations. "last" comes second: it holds what "best" has seen.
                RunCheckpoint(run, "best", SCORE),
                RunCheckpoint(run, "last"),
                Export(run),
            ]
        else:
            kwargs |= {"logger": False, "enable_checkpointing": False}
        trainer = self._trainer(kwargs)
        if trainer.world_size > 1:
            trainer = self._trainer(kwargs | {"strategy": ImageParallelStrategy()})
        self._check_size(trainer)
        return trainer

    def _trainer(self, kwargs: dict[str, Any]) -> L.Trainer:
        """The Trainer; what Lightning says of its settings becomes one line.

        Raises:
            UserError: they do not fit together, or this machine.
        """
        try:
            return super().instantiate_trainer(**copy(kwargs))
        except UserError:
            raise
        except Exception as error:  # Lightning raises its own, and Python's, of many kinds
            given = self.config[self.subcommand]["trainer"]
            flags = " ".join(f"--trainer.{name}={given[name]}" for name in ("accelerator", "devices", "precision"))
            raise UserError(f"{flags}: not possible here: {' '.join(str(error).split())}") from error

    def _check_checkpoint(self, path: str) -> None:
        """Check that a checkpoint is of what is asked for, before TensorBoard's file is begun beside it.

        Raises:
            UserError: it is not, or is damaged.
        """
        checkpoint = read_checkpoint(path, f"--ckpt_path={path}")
        check_identity(checkpoint, self.model.identity(self.datamodule))
        evaluation: TabICLEvaluation = self._get(self.config_init, "tabicl")
        if evaluation.state_key in checkpoint["callbacks"]:
            evaluation.load_state_dict(checkpoint["callbacks"][evaluation.state_key])

    def _check_size(self, trainer: L.Trainer) -> None:
        """Check that the images can be shared out and held, once for all devices and before there is a folder.

        Raises:
            UserError: there are more devices than images, overflow on one would be a step on the others, or the images
                alone exceed the memory.
        """
        extended: ContextSet | None = self.model.extended
        classes = self.datamodule.num_classes - (0 if extended is None else len(extended.class_names))
        images, ranks = classes * self.model.ipc, trainer.world_size
        if ranks > images:
            raise UserError(f"--trainer.devices: {ranks} devices for {images} images. Use at most one for each image.")
        if ranks > 1 and trainer.precision == "16-mixed":
            raise UserError("--trainer.precision=16-mixed: not with several devices. Use bf16-mixed.")
        device = trainer.strategy.root_device
        needed, free = bytes_of_images(self.model.image_settings, images) / ranks, free_bytes(device)
        if needed > free:
            raise UserError(
                f"--model.ipc={self.model.ipc}, --model.images.size={self.model.image_settings.size}: {images} images "
                f"take {needed / 2**30:.0f} GiB on each device, and {free / 2**30:.1f} GiB are free. Lower one of them."
            )

    def after_fit(self) -> None:
        """Score the exported context sets on val as ``synthicl compare`` does, and print the table."""
        if torch.distributed.is_initialized():  # the scoring is rank 0's alone
            torch.distributed.destroy_process_group()
        if self.trainer.is_global_zero:
            folder, device = _folder(self.trainer), self.trainer.strategy.root_device
            evaluate(COMPARE, folder, {}, TABLE, device=device, made_by=self.made_by)
            print(f"This is val, for choosing. Once you have chosen, score test: {program()} compare {folder}")

    def after_test(self) -> None:
        """Say what a score on test is not for."""
        if self.trainer.is_global_zero:
            print(TEST_IS_SCORED)


def run(args: list[str]) -> None:
    """Parse a command line, see `synthicl.cli.command_line.written`, and run its subcommand.

    Raises:
        UserError: a mistake in the command line that the parser does not see.
    """
    _, flags = split(args)
    for flag in flags:
        if flag.name in {"--model.optimizer.lr", "--model.optimizer.init_args.lr"}:
            raise UserError(f"{flag}: the learning rate is --model.lr.")
    checkpoint = with_defaults(flags).get("ckpt_path")
    if checkpoint:
        read_checkpoint(checkpoint, f"--ckpt_path={checkpoint}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # The backbone is meant to be in evaluation mode, a checkpoint to hold the state after the step, and this function
    # to be handed the process's own arguments; the rest is advice on data loaders, and libraries' own.
    for message in (
        ".*in eval mode.*",
        ".*pre-optimization state.*",
        ".*args parameter is intended.*",
        ".*exists and is not empty.*",  # a run that resumes
        ".*callbacks used to create the checkpoint.*",  # validate and test write none
        ".*many workers.*",
        ".*sync_dist=True.*",  # the score of rank 0 was broadcast
        ".*not resumable.*",
        ".*isinstance.treespec.*",
    ):
        warnings.filterwarnings("ignore", message)
    folders: list[Path] = []
    try:
        _run(folders.append, args)
    except ValueError as error:
        mistake = mistake_within(error)
        if mistake is None:
            raise
        raise mistake from error
    except (KeyboardInterrupt, SystemExit) as stop:
        if args[:1] == ["fit"]:
            stop.add_note(how_to_resume(folders[0] if folders else None))
        raise


def mistake_within(error: BaseException) -> UserError | None:
    """The user's mistake behind what the parser says of a class that it could not make; None if there is none."""
    found = re.search(r"- (--[a-z][\w.]*[=:].*)", str(error))
    return UserError(found[1]) if found else None


def how_to_resume(run: Path | None) -> str:
    """What is true of a run that was ended from outside.

    Args:
        run: its folder; None where it had none yet.
    """
    if run is not None and (run / CONTEXT_FILE).is_file():
        return f"The images are finished; synthicl compare {shlex.quote(str(run))} scores them."
    if run is not None and (last := run / "checkpoints" / "last.ckpt").is_file():
        return f"The run resumes from its last checkpoint with synthicl fit --ckpt_path={shlex.quote(str(last))}"
    return "There is no checkpoint yet: start again."


def _run(began: Callable[[Path], object], args: list[str]) -> None:
    """Run a subcommand; ``began`` is told the run's folder."""
    DistillCLI(
        began,
        Distiller,
        ImageDataModule,
        save_config_callback=SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=False,
        auto_configure_optimizers=False,  # --model.optimizer is the optimiser
        trainer_defaults={"use_distributed_sampler": False},
        # An abbreviation is a name that what is read early does not know.
        parser_kwargs={
            "exit_on_error": False,
            "allow_abbrev": False,
            **{
                name: {
                    "default_config_files": [str(file) for file in default_files()],
                    "exit_on_error": False,
                    "allow_abbrev": False,
                }
                for name in DistillCLI.subcommands()
            },
        },
        args=args,
    )
