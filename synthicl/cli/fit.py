"""The Lightning CLI behind ``train.py``: which settings exist, and how Trainer, callbacks and folders come together."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.cli.command_line import EARLY, agree, split, with_defaults
from synthicl.cli.evaluate import evaluate, program
from synthicl.core.configuration import default_files
from synthicl.core.distributed import ImageParallelStrategy
from synthicl.core.errors import UserError
from synthicl.core.files import write_whole
from synthicl.core.run_folder import next_version, point_latest
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.callbacks.cost import Cost
from synthicl.distillation.callbacks.export import Export
from synthicl.distillation.callbacks.image_grid import ImageGrid
from synthicl.distillation.callbacks.probe_evaluation import ProbeEvaluation
from synthicl.distillation.callbacks.progress import DistillationProgress
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.distiller import Distiller
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
    """Refuse what the optimisation has no meaning for.

    Raises:
        UserError: one line that names the flag.
    """
    allowed = {
        "precision": (None, "32-true", "64-true", "bf16-mixed", "16-mixed", 32, "32", 64, "64"),
        "strategy": ("auto", "ddp"),  # several devices share the images out, whatever is asked
        "fast_dev_run": (False, 0),
        # The batch of a step is a function of its number.
        "limit_train_batches": (None, 1.0),
        "overfit_batches": (0.0,),
        # The run's folder has TensorBoard's files and the checkpoints.
        "logger": (None, True),
        "enable_checkpointing": (None, True),
    }
    for name, values in allowed.items():
        if settings[name] not in values:
            words = ", ".join(str(value) for value in values if isinstance(value, str) and not value.isdigit())
            choice = f"Choose {words}." if words else "Leave it out."
            raise UserError(f"--trainer.{name}={settings[name]}: not possible here. {choice}")
    if settings["max_steps"] < 1:
        raise UserError(f"--trainer.max_steps={settings['max_steps']}: must be at least 1.")


def copy(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer, the list of callbacks copied: Lightning appends to the one it is given."""
    return {name: list(value) if name == "callbacks" else value for name, value in kwargs.items()}


class Logger(TensorBoardLogger):
    """TensorBoard without Lightning's ``epoch``, which says nothing here: a run is counted in steps."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what is not the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


HYPERPARAMETERS = (
    *("data.name", "data.split_seed", "backbone.name", "tabicl.checkpoint", "model.objective.class_path", "model.ipc"),
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
        metrics = {f"hparams/val_{probe}_accuracy": value for probe, value in found.items() if value is not None}
        trainer.logger.log_hyperparams(shown, metrics)


class DistillCLI(LightningCLI):
    """fit, validate and test, with ``--backbone.*``, ``--tabicl.*`` and ``--output_dir`` beside Lightning's groups."""

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
        parser.add_class_arguments(FrozenBackbone, "backbone")
        parser.add_lightning_class_args(TabICLEvaluation, "tabicl")
        parser.link_arguments("backbone", "model.backbone", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and check that what was read before torch was loaded is what this parser reads."""
        super().parse_arguments(parser, args)
        assert isinstance(args, list)
        self.made_by = shlex.join([program(), *args])
        agree(with_defaults(split(args)[1]), self.config[self.config["subcommand"]].get, EARLY)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the Trainer with the project's logger and callbacks; several devices share the images out."""
        settings = self.config[self.subcommand]
        check_trainer_settings(settings["trainer"])
        checkpoint = settings.get("ckpt_path")
        if checkpoint:  # a run that resumes stays in its folder
            run = Path(checkpoint).resolve().parents[1]
        else:
            folder = Path(settings["output_dir"]) / settings["data"]["name"]
            run = folder / next_version(folder)
        if self.subcommand == "fit":
            kwargs["logger"] = Logger(run.parents[1], run.parent.name, run.name, default_hp_metric=False)
            checkpoints: dict[str, Any] = {"dirpath": run.resolve() / "checkpoints", "enable_version_counter": False}
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
                # Both are written at validations, whole, over the last one, into the run's folder. "last" comes second:
                # it holds what "best" has seen, and a run that resumes from it keeps the same best if the folder's path
                # is the same, hence the whole one.
                ModelCheckpoint(filename="best", monitor="val/tabicl_accuracy", mode="max", **checkpoints),
                ModelCheckpoint(filename="last", **checkpoints),
                Export(run),
            ]
        else:
            kwargs |= {"logger": False, "enable_checkpointing": False}
        trainer = super().instantiate_trainer(**copy(kwargs))
        if trainer.world_size > 1:
            trainer = super().instantiate_trainer(**copy(kwargs), strategy=ImageParallelStrategy())
        return trainer

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
        try:
            torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        except Exception as error:  # torch.load states no list of what it raises
            reason = type(error).__name__
            raise UserError(f"--ckpt_path={checkpoint}: not a checkpoint, or damaged ({reason}).") from error
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
    DistillCLI(
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
