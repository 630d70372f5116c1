"""The optimisation through Lightning's Trainer: equalities that a run must keep."""

import shutil
from dataclasses import fields
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from synthicl.backbones import create_backbone
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core import memory
from synthicl.core.errors import UserError
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.transforms import SquareImages
from synthicl.distillation.callbacks.probe_evaluation import ProbeEvaluation
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.checkpoint_files import seal
from synthicl.distillation.color import correlate_colors
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.images import ImageSettings
from synthicl.distillation.real_side import Bank, OnlineBatches, RealSettings
from synthicl.distillation.views import Viewer, ViewSettings
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import InContext, LinearGradientMatching, Ridge, TrainedHeadGradientMatching, WeightedSum


class Crash(L.Callback):
    """Ends a run as a power cut would, after a number of steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


GROUPS = {"images": ImageSettings, "views": ViewSettings, "real": RealSettings}


def distiller(data: ImageDataModule, objective=None, backbone=None, **settings) -> Distiller:
    """Settings of all groups by their names, which no two share."""
    defaults = {
        "augmentation": Augmentation(flip=0, area=(0.6, 1), noise_std=0.05),
        "size": 32,
        "number": 2,
        "lr": 0.03,
        "grow_every": 3,
    }
    settings, groups = defaults | settings, {}
    for group, kind in GROUPS.items():
        groups[group] = kind(
            **{field.name: settings.pop(field.name) for field in fields(kind) if field.name in settings}
        )
    objective = objective or LinearGradientMatching(heads=4)
    return Distiller(backbone or create_backbone("mini"), objective, **groups, **settings)


def trainer(steps: int, callbacks=(), **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    loops = {"max_steps": steps, "max_epochs": -1, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    every = {"limit_val_batches": 0} if "val_check_interval" not in settings else {"check_val_every_n_epoch": None}
    if not any(isinstance(callback, TabICLEvaluation) for callback in callbacks):
        callbacks = [TabICLEvaluation(preprocessing="raw"), *callbacks]
    return L.Trainer(callbacks=list(callbacks), enable_checkpointing=checkpoints, **quiet | loops | every | settings)


def context(module: Distiller) -> LabelledEmbeddings:
    return module.viewer.context(module.images)


def fit(steps: int = 8, callbacks=(), data=None, ckpt_path=None, trainer_settings=None, **settings) -> Distiller:
    data = data or ImageDataModule("digits")
    module = distiller(data, **settings)
    runner = trainer(steps, callbacks, **trainer_settings or {})
    runner.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


def levels(module: Distiller) -> list[torch.Tensor]:
    return [level.detach().clone() for level in module.images.pyramid.levels]


def assert_equal(first: Distiller, second: Distiller) -> None:
    for one, other in zip(levels(first), levels(second), strict=True):
        assert torch.equal(one, other)


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*in eval mode.*",
    "ignore:.*many workers.*",
    "ignore:.*pre-optimization state.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*not resumable.*",
)


@pytest.mark.parametrize("real", ["bank", "online"])
@pytest.mark.parametrize("crash_at", [1, 4, 5, 7])
def test_a_run_that_was_killed_resumes_bit_for_bit(real, crash_at, tmp_path):
    """Before, at and after a growth (steps 4 and 7), from a checkpoint of the step before or two before."""
    whole = fit(source=real)
    save = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2, enable_version_counter=False)
    with pytest.raises(RuntimeError, match="crash"):
        fit(source=real, callbacks=[save, Crash(crash_at)])
    checkpoint = tmp_path / "last.ckpt"
    resumed = fit(source=real, callbacks=[save], ckpt_path=checkpoint if checkpoint.exists() else None)
    assert_equal(resumed, whole)


@pytest.mark.parametrize("crash_at", [5, 6, 7])
def test_a_run_that_was_killed_keeps_the_same_best_on_val(crash_at, tmp_path):
    """Validation after every second step; the crash comes between two, or just after one."""

    def run(folder: Path, *crash: L.Callback, ckpt_path: Path | None = None) -> None:
        callbacks = [
            TabICLEvaluation(preprocessing="rotated4", n_estimators=1, max_queries=40),
            ModelCheckpoint(folder, "best", monitor="val/tabicl_accuracy", mode="max", enable_version_counter=False),
            ModelCheckpoint(folder, "last", enable_version_counter=False),
            *crash,
        ]
        fit(steps=10, callbacks=callbacks, ckpt_path=ckpt_path, trainer_settings={"val_check_interval": 2})

    run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path / "killed", Crash(crash_at))
    run(tmp_path / "killed", ckpt_path=tmp_path / "killed/last.ckpt")
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(tmp_path / run_name / name, weights_only=True) for run_name in ("whole", "killed"))
        assert one["global_step"] == other["global_step"]
        for key, level in one["state_dict"].items():
            assert torch.equal(level, other["state_dict"][key])


def test_soft_labels_and_what_the_objective_learns_are_optimised_and_survive_an_interruption(tmp_path):
    """The interruption comes after a level was added, which leaves Adam's state of the others as it is."""
    settings = {"soft_labels": True, "lr_schedule": "cosine"}
    whole = fit(steps=9, objective=Ridge(), **settings)

    def keep() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "last", every_n_train_steps=5, enable_version_counter=False)

    with pytest.raises(RuntimeError, match="crash"):
        fit(steps=9, objective=Ridge(), callbacks=[keep(), Crash(7)], **settings)
    resumed = fit(steps=9, objective=Ridge(), callbacks=[keep()], ckpt_path=tmp_path / "last.ckpt", **settings)
    assert_equal(whole, resumed)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    labels = context(whole).soft_labels
    torch.testing.assert_close(labels.sum(1), torch.ones(10))
    assert not torch.allclose(labels.diagonal(), torch.tensor(0.9))
    assert whole.objective.log_scale != Ridge().log_scale


def test_a_term_that_joins_later_learns_nothing_before():
    scales = {}

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            scales[trainer.global_step] = module.objective.terms[0].log_scale.item()

    objective = WeightedSum([Ridge(), LinearGradientMatching(heads=4)], [1.0, 1.0], [0.5, 0.0])
    fit(steps=8, objective=objective, callbacks=[Watch()])
    begin = Ridge().log_scale.item()
    assert [scales[step] == begin for step in range(1, 9)] == [True] * 4 + [False] * 4


def test_soft_labels_begin_where_the_class_has_most_of_it():
    labels = context(fit(steps=1, lr=1e-9, soft_labels=True, ipc=2)).soft_labels
    expected = torch.full((20, 10), 0.1 / 9).scatter(1, torch.arange(10).repeat_interleave(2)[:, None], 0.9)
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-6)


def test_no_views_is_the_clean_image():
    assert_equal(fit(steps=3, number=0), fit(steps=3, augmentation=None))


class Records(LinearGradientMatching):
    """Keeps what it was shown."""

    def forward(self, synthetic, real, num_classes, generator):
        self.shown = synthetic, real
        return super().forward(synthetic, real, num_classes, generator)


def test_each_term_is_shown_the_view_that_it_looks_at():
    clean, augmented = Records(heads=2, view="clean"), Records(heads=2)
    module = distiller(
        ImageDataModule("digits"), WeightedSum([clean, augmented], [1.0, 1.0]), number=3, bank_views=2, lr=1e-12
    )
    trainer(1).fit(module, datamodule=ImageDataModule("digits"))
    (synthetic, real), (views, real_views) = clean.shown, augmented.shown
    images = module.images.pyramid.decode()
    torch.testing.assert_close(synthetic.z, module.backbone(images), rtol=0, atol=1e-5)
    assert synthetic.views == 1 and synthetic.y.tolist() == list(range(10))
    assert views.views == 3 and views.y.tolist() == [label for label in range(10) for _ in range(3)]
    parameters = module.viewer.augmentation.draw(30, 32, module.seed, "synthetic", 0)
    seen = module.viewer.augmentation.apply(images.repeat_interleave(3, 0), parameters, 32)
    torch.testing.assert_close(views.z, module.backbone(seen), rtol=0, atol=1e-5)
    assert len(real.z) == 899 and len(real_views.z) == 2 * 899


def test_the_objective_is_prepared_for_the_tabicl_that_scores():
    class Keeps(LinearGradientMatching):
        def prepare(self, train, deployment, device=None):
            self.kept = train, deployment

    objective = Keeps(heads=2)
    module = fit(steps=1, objective=objective, callbacks=[TabICLEvaluation(preprocessing="rotated4", n_estimators=3)])
    train, deployment = objective.kept
    assert deployment is module.deployment and deployment.checkpoint == "mini"
    assert (deployment.preprocessing.name, deployment.preprocessing.n_estimators) == ("rotated4", 3)
    torch.testing.assert_close(deployment.preprocessing.mean, train.z.double().mean(0).float())


def test_an_objective_of_clean_images_ignores_views():
    few, none = (fit(steps=3, objective=Ridge(), number=number) for number in (2, 0))
    assert_equal(few, none)


def test_how_often_one_validates_does_not_change_the_images():
    never = fit(steps=6)
    often = fit(
        steps=6,
        callbacks=[TabICLEvaluation(preprocessing="rotated4", n_estimators=1, max_queries=20)],
        trainer_settings={"val_check_interval": 2},
    )
    assert_equal(never, often)


@pytest.mark.parametrize("chunk_size", [1, 7])
@pytest.mark.parametrize("settings", [{}, {"number": 0}, {"parameterisation": "pixels"}, {"mixed": True}], ids=str)
def test_the_gradient_does_not_depend_on_the_chunk_size(chunk_size, settings):
    """Seven rows of two views, or of one clean row and two views: chunks begin and end within an image."""
    settings = dict(settings)
    if settings.pop("mixed", False):
        terms = [LinearGradientMatching(heads=4, view="clean"), LinearGradientMatching(heads=4)]
        settings["objective"] = WeightedSum(terms, [0.5, 1.0])
    for precision, tolerance in (("64-true", 1e-12), ("32-true", 1e-6)):
        both = [
            fit(steps=1, lr=1e-3, chunk_size=size, trainer_settings={"precision": precision}, **settings)
            for size in (100, chunk_size)
        ]
        for one, other in zip(*(module.images.pyramid.parameters() for module in both), strict=True):
            assert (one.grad - other.grad).norm() <= tolerance * one.grad.norm()


def test_all_rows_are_one_chunk_where_they_fit_and_a_power_of_two_where_not(monkeypatch):
    assert fit(steps=1).viewer.at_once == 20
    monkeypatch.setattr(memory, "free_bytes", lambda device: 6_000_000)
    small = fit(steps=1)
    assert small.viewer.at_once in (1, 2, 4, 8, 16)
    of = [memory.saved_bytes(lambda n=n: small.backbone(torch.rand(n, 3, 32, 32, requires_grad=True))) for n in (1, 2)]
    needed = of[1] - of[0]
    assert 0.4 * 0.5 * 6e6 < small.viewer.at_once * needed < 0.5 * 6e6
    assert fit(steps=1, chunk_size=3).viewer.at_once == 3
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    with pytest.raises(UserError, match="Use more devices, or lower"):
        fit(steps=1)


def test_what_a_step_keeps_does_not_grow_with_images_and_views(monkeypatch):
    """A chunk is all that a backward pass reads, whatever the number of chunks."""
    kept = []
    embed = Viewer.embedder

    def counting(self, images, step):
        function = embed(self, images, step)

        def counted(part):
            if not torch.is_grad_enabled():
                return function(part)
            result = []
            kept.append(memory.saved_bytes(lambda: result.append(function(part)) or result[0]))
            return result[0]

        return counted

    monkeypatch.setattr(Viewer, "embedder", counting)
    most = []
    for settings in ({"number": 1}, {"ipc": 4, "number": 1}, {"ipc": 2, "number": 10}, {"number": 100}):
        kept.clear()
        fit(steps=1, chunk_size=7, **settings)  # chunks begin within an image, and end within another
        most.append(max(kept))
    assert most[1] == most[0]
    assert most[2] < 1.05 * most[0]
    assert most[3] < 1.05 * most[0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf.*")
def test_a_compiled_backbone_gives_the_same_gradient():
    torch._dynamo.reset()
    compiled = fit(steps=1, backbone=FrozenBackbone("mini", compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for one, other in zip(compiled.images.pyramid.parameters(), fit(steps=1).images.pyramid.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_the_seed_decides():
    assert_equal(fit(steps=3, seed=1), fit(steps=3, seed=1))
    assert not torch.equal(levels(fit(steps=3, seed=1))[0], levels(fit(steps=3, seed=2))[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"parameterisation": "pixels"},
        {"init": "zero"},
        {"augmentation": None},
        {"augmentation": None, "source": "online"},
        {"decorrelate": False},
        {"bank_views": 2},
        {"bank_batch_size": 50},
        {"ipc": 3},
        {"optimizer": lambda params: torch.optim.NAdam(params, betas=(0.5, 0.9))},
        {"lr_schedule": "cosine"},
        {"size": 40, "crop_size": 32},
        {"trainer_settings": {"precision": "bf16-mixed"}},
    ],
    ids=" and ".join,
)
def test_every_setting_runs_and_changes_the_images(settings):
    settings = {"trainer_settings": {}, **settings}
    changed, default = fit(steps=2, **settings), fit(steps=2)
    assert [len(level) for level in changed.images.pyramid.levels] == [changed.images.total] * len(
        changed.images.pyramid.levels
    )
    assert all(torch.isfinite(level).all() for level in changed.images.pyramid.levels)
    size = changed.images.settings.size
    assert changed.images.collect(at_once=64).shape == (changed.images.total, 3, size, size)
    one, other = levels(changed), levels(default)
    assert len(one) != len(other) or any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_loss_falls():
    losses = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, *args) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    fit(steps=40, callbacks=[Record()], grow_every=5)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_growth_happens_at_the_steps_of_the_reference_and_restarts_adam():
    seen = {}

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            state = next(iter(module.optimizers().optimizer.state.values()))
            seen[int(batch)] = len(module.images.pyramid.levels), int(state["step"])

    fit(steps=8, callbacks=[Record()], grow_every=3)
    # step > 1 and (step - 1) % 3 == 0: levels are added at steps 4 and 7, counted from 0
    assert [count for count, _ in seen.values()] == [1, 1, 1, 1, 2, 2, 2, 3]
    assert [adam for _, adam in seen.values()] == [1, 2, 3, 4, 1, 2, 3, 1]


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_gives_nearly_the_same_gradient(precision):
    """16-mixed with its loss scaling: the gradient that Adam sees is unscaled."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024) if precision == "16-mixed" else None
    mixed = fit(steps=1, trainer_settings={"plugins": [MixedPrecision(precision, "cpu", scaler)]})
    full = fit(steps=1)
    for one, other in zip(mixed.images.pyramid.parameters(), full.images.pyramid.parameters(), strict=True):
        assert torch.cosine_similarity(one.grad.flatten(), other.grad.flatten(), 0) > 0.99
        assert one.grad.norm() == pytest.approx(other.grad.norm().item(), rel=0.1)


def test_only_the_backbone_runs_in_16_bit():
    data = ImageDataModule("digits")
    module, dtypes = distiller(data), {}

    def look(layer, inputs, output) -> None:
        dtypes[type(layer).__name__] = inputs[0].dtype, output.dtype

    module.backbone.register_forward_hook(look)
    module.backbone.network.blocks[0].attn.qkv.register_forward_hook(look)

    trainer(1, precision="bf16-mixed").fit(module, datamodule=data)  # the last call is the step's
    assert dtypes["FrozenBackbone"][0] == torch.float32
    assert dtypes["Linear"][1] == torch.bfloat16
    colours = torch.rand(1, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert correlate_colors(colours).dtype == torch.bfloat16  # what the step keeps away from


def test_nan_ends_the_run_and_leaves_the_last_checkpoint_good(tmp_path):
    save = ModelCheckpoint(tmp_path, "last", every_n_train_steps=5, enable_version_counter=False)

    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            if batch_idx == 6:
                with torch.no_grad():
                    module.images.pyramid.levels[0].fill_(float("nan"))

    with pytest.raises(UserError, match=r"The loss became NaN or infinite before step 10\. .* Lower --model\.lr"):
        fit(steps=20, callbacks=[save, Poison()], grow_every=100)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5
    assert all(torch.isfinite(level).all() for level in state["state_dict"].values())


def test_nan_in_the_last_step_is_not_exported():
    class Poison(L.Callback):
        def on_train_batch_end(self, trainer, module, *_) -> None:
            with torch.no_grad():
                module.images.pyramid.levels[0].fill_(float("nan"))

    with pytest.raises(UserError, match=r"The loss became NaN or infinite before step 1\."):
        fit(steps=1, callbacks=[Poison()])


def test_the_bank_minibatch_is_class_balanced():
    y = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    bank = Bank(torch.arange(100.0)[None, :, None], y, batch_size=15, seed=0)
    batch = bank(3)
    assert torch.bincount(batch.y).tolist() == [5, 5, 4]
    assert torch.equal(y[batch.z.flatten().long()], batch.y)
    assert len(batch.z.unique()) == 14
    assert torch.equal(bank(3).z, batch.z)
    assert not torch.equal(bank(4).z, batch.z)
    drawn = torch.bincount(torch.cat([bank(step).z.flatten().long() for step in range(3000)]), minlength=100) / 3000
    expected = torch.tensor([5 / 90] * 90 + [5 / 6] * 6 + [1.0] * 4)
    torch.testing.assert_close(drawn, expected, rtol=0.4, atol=0)


def test_a_checkpoint_holds_the_images_but_not_the_backbone(tmp_path):
    module = fit(steps=4, callbacks=[ModelCheckpoint(tmp_path, "last", every_n_train_steps=4)])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(state["state_dict"]) == {f"pyramid.levels.{i}" for i in range(len(module.images.pyramid.levels))}
    assert (tmp_path / "last.ckpt").stat().st_size < 200_000


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    save = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2)
    fit(steps=2, callbacks=[save])
    with pytest.raises(UserError, match=r"--model\.ipc=2: the checkpoint was made with 1"):
        fit(callbacks=[save], ckpt_path=tmp_path / "last.ckpt", ipc=2)
    with pytest.raises(UserError, match=r"--model\.images\.size=40: the checkpoint was made with 32"):
        fit(callbacks=[save], ckpt_path=tmp_path / "last.ckpt", size=40)
    torch.save({"state_dict": {}, "pytorch-lightning_version": L.__version__}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of a distillation"):
        fit(ckpt_path=tmp_path / "other.ckpt")


def test_a_checkpoint_of_another_split_is_refused(tmp_path):
    save, path = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2), tmp_path / "last.ckpt"
    other = ImageDataModule("digits", split_seed=7)
    fit(steps=2, callbacks=[save])
    message = r"--data\.split_seed=7: the checkpoint was made with 0, which cannot change"
    with pytest.raises(UserError, match=message):
        fit(data=other, callbacks=[save], ckpt_path=path)
    older = torch.load(path, weights_only=True)  # from before the seed could be chosen
    del older["distillation"]["split_seed"]
    seal(older)
    torch.save(older, path)
    with pytest.raises(UserError, match=message):
        fit(data=other, callbacks=[save], ckpt_path=path)
    fit(steps=4, callbacks=[save], ckpt_path=path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ipc": 0}, r"--model\.ipc=0: must be at least 1"),
        ({"crop_size": 16}, r"--model\.views\.crop_size=16: the backbone refuses it"),
        ({"size": 16}, r"--model\.images\.size=16 is smaller than the backbone's crop of 32 px"),
        (
            {"soft_labels": True, "objective": InContext()},
            r"images\.soft_labels=true: this objective knows classes only",
        ),
        ({"chunk_size": 0}, r"--model\.views\.chunk_size=0: must be at least 1"),
        ({"number": -1}, r"--model\.views\.number=-1: must lie between 0 and"),
        ({"bank_views": 2, "augmentation": None}, r"--model\.real\.bank_views=2 needs --model\.views\.augmentation"),
    ],
)
def test_settings_that_do_not_fit_together(settings, message):
    with pytest.raises(UserError, match=message):
        distiller(ImageDataModule("digits"), **settings)


def test_odd_and_tiny_datasets(image_folder):
    """Fewer images than a batch, and one training image in a class."""
    counts = {"train": (5, 1), "val": (1, 1), "test": (2, 2)}
    root = image_folder(
        {f"{split}/{name}": n for split, ns in counts.items() for name, n in zip(("a b", "ü"), ns, strict=True)}
    )
    data = ImageDataModule("folder", root)
    for real in ("bank", "online"):
        module = fit(steps=3, data=data, source=real, ipc=4)
        assert context(module).y.tolist() == [0] * 4 + [1] * 4


def test_rows_of_the_context_are_the_clean_embeddings_of_the_eight_bit_images():
    module = fit(steps=2, size=40, crop_size=32)
    again = module.backbone(module.images.collect(at_once=64)[:, :, 4:36, 4:36] / 255)
    torch.testing.assert_close(context(module).z, again)


def test_the_order_of_online_batches_covers_an_epoch_without_repeats():
    data = ImageDataModule("digits")
    batches = OnlineBatches(data.splits["train"], 100, 32, seed=0)
    epoch = torch.cat([batches.indices(step) for step in range(8)])  # 899 images: the last 99 are dropped
    assert len(epoch.unique()) == 800
    assert not torch.equal(batches.indices(0), batches.indices(8))
    assert torch.equal(batches.indices(3), batches.indices(3))


def test_online_images_without_augmentation_are_those_of_the_bank():
    images = ImageDataModule("digits").splits["train"]
    _, pixels, labels = OnlineBatches(images, 5, 24, seed=0, clean=True)(3)
    indices = OnlineBatches(images, 5, 24, seed=0).indices(3)
    assert torch.equal(pixels, torch.stack([SquareImages(images, 24)[int(index)] for index in indices]))
    assert labels.tolist() == images.labels[indices].tolist()
    fit(steps=1, objective=Sees((10, 128)), source="online", number=0, size=40)


class Sees(LinearGradientMatching):
    """Compares the real rows with the clean embeddings of train."""

    def __init__(self, shape) -> None:
        super().__init__(heads=2)
        self._shape = shape

    def prepare(self, train, deployment, device=None):
        self._clean = train.z

    def forward(self, synthetic, real, num_classes, generator):
        assert real.z.shape == self._shape
        assert (torch.cdist(real.z, self._clean, 2, "donot_use_mm_for_euclid_dist").min(1).values < 1e-3).all()
        return super().forward(synthetic, real, num_classes, generator)


def test_finding_a_chunk_size_embeds_two_views_at_most():
    sizes = []
    module = distiller(ImageDataModule("digits"), number=7)
    forward = module.backbone.forward
    module.backbone.forward = lambda images: (
        sizes.append(len(images)) if images.requires_grad else None,
        forward(images),
    )[1]

    class Forget(L.Callback):
        def on_train_start(self, *args):
            sizes.append("start")

    trainer(1, [Forget()]).fit(module, datamodule=ImageDataModule("digits"))
    assert sizes[: sizes.index("start")] == [1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"--model\.lr=0\.0: must be greater than 0"),
        ({"lr": -0.1}, r"--model\.lr=-0\.1: must be greater than 0"),
        ({"bank_views": -1}, r"--model\.real\.bank_views=-1: must lie between 0 and"),
        ({"number": -1}, r"--model\.views\.number=-1: must lie between 0 and"),
        ({"bank_batch_size": 0}, r"--model\.real\.bank_batch_size=0: must be at least 1"),
        (
            {"optimizer": torch.optim.LBFGS},
            r"--model\.optimizer: LBFGS doesn't support .* Choose another, such as Adam",
        ),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        distiller(ImageDataModule("digits"), **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearGradientMatching(heads=0),
        lambda: TrainedHeadGradientMatching(starts=0),
        lambda: Augmentation(area=(1.0, 0.6)),
        lambda: Augmentation(flip=1.5),
        lambda: Augmentation(ratio=(0.0, 1.0)),
        lambda: Augmentation(noise_std=-1.0),
    ],
)
def test_objectives_and_augmentation_out_of_range(make):
    with pytest.raises(UserError, match=r"^--model\.(objective: |views\.augmentation\.\w+=)"):
        make()


def test_path_of_weights_must_be_a_file(tmp_path):
    with pytest.raises(UserError, match=r"--backbone\.weights=.*: not a file"):
        create_backbone("mini", Path(tmp_path))


def test_a_probe_beside_tabicl_changes_no_image():
    def run(*probes: ProbeEvaluation) -> Distiller:
        evaluations = [TabICLEvaluation(preprocessing="rotated4", n_estimators=1, max_queries=40), *probes]
        return fit(steps=8, callbacks=evaluations, trainer_settings={"val_check_interval": 2})

    assert_equal(run(), run(ProbeEvaluation("linear")))
