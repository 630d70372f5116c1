"""Images of an earlier run as constants of an optimisation."""

import lightning as L
import pytest
import torch

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.core.errors import UserError
from synthicl.core.randomness import keyed_generator
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.checkpoint import IDENTITY, check_identity
from synthicl.distillation.checkpoint_files import seal
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.frozen import VIEWS, FrozenImages, identity_of
from synthicl.distillation.images import ImageSettings, SyntheticImages
from synthicl.distillation.step import backpropagate
from synthicl.distillation.views import ViewSettings
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import InContext, LinearGradientMatching, Views, WeightedSum
from synthicl.tabicl.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode.*", "ignore:.*many workers.*")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A context set of the first eight digits, two images of each: noise with the rows that belong to it."""
    folder = tmp_path_factory.mktemp("before")
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    backbone = create_backbone("mini")
    with torch.no_grad():
        z = backbone(images / 255)
    ContextSet(
        embeddings=z,
        labels=torch.arange(8).repeat_interleave(2),
        class_names=[str(digit) for digit in range(8)],
        preprocessing=Preprocessing("raw", 1),
        images=images,
        metadata={"backbone": "mini", "backbone_weights": backbone.fingerprint, "crop_size": 32, "ipc": 2},
        soft_labels=None,
    ).save(folder)
    return folder


def fitted(before, objective=None, number=2, steps=3, ipc=2, data=None, precision="32-true", **settings) -> Distiller:
    views = ViewSettings(
        number, Augmentation(flip=0, area=(0.6, 1), noise_std=0.05), chunk_size=settings.pop("chunk", None)
    )
    images = ImageSettings(size=settings.pop("size", 32), grow_every=2, soft_labels=settings.pop("soft_labels", False))
    objective = objective or LinearGradientMatching(heads=4)
    module = Distiller(
        settings.pop("backbone", None) or create_backbone("mini"),
        objective,
        ipc,
        images,
        views,
        extend=before,
        **settings,
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    L.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=[TabICLEvaluation(n_estimators=1)],
        precision=precision,
        **quiet,
    ).fit(module, datamodule=data or ImageDataModule("digits"))
    return module


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_the_context_begins_with_the_rows_as_they_were(before, precision):
    module, found = fitted(before, precision=precision), ContextSet.load(before)
    rows = module.viewer.context(module.images)
    assert rows.z[:16].numpy().tobytes() == found.embeddings.numpy().tobytes()
    assert rows.y.tolist() == torch.arange(10).repeat_interleave(2).tolist()
    images = module.images.collect(at_once=3)
    assert torch.equal(images[:16], found.images)
    assert images.shape == (20, 3, 32, 32)
    assert module.images.total == 4 and module.images.labels.tolist() == [8, 8, 9, 9]


def test_only_new_images_are_parameters_and_in_a_checkpoint(before):
    module = fitted(before)
    assert all(len(level) == 4 for level in module.images.parameters())
    assert all(len(tensor) == 4 for tensor in module.state_dict().values())


def test_a_new_image_begins_as_it_would_beside_images_that_are_optimised(before):
    module = fitted(before, steps=1, lr=1e-12)
    noise = torch.randn(3, 1, 1, generator=keyed_generator(0, "pyramid", 17, 0))
    torch.testing.assert_close(module.images.pyramid.levels[0][1], noise)


def test_ranks_share_the_new_images_and_all_have_the_frozen_ones(before, monkeypatch):
    """What ranks exchange and compute is tests/cli/test_cli.py's, with processes."""
    found, settings = ContextSet.load(before), ImageSettings(size=32)

    def images_of(rank: int, ranks: int) -> SyntheticImages:
        monkeypatch.setattr("synthicl.distillation.images.world", lambda: (rank, ranks))
        return SyntheticImages(settings, 10, 2, 0, FrozenImages(found, 10))

    alone, several = images_of(0, 1), [images_of(rank, 3) for rank in range(3)]
    noise = [images.pyramid.levels[0] for images in several]
    assert torch.equal(torch.cat(noise), alone.pyramid.levels[0]) and [len(part) for part in noise] == [1, 1, 2]
    for images in several:
        assert images.total == 4 and images.all_labels.tolist() == alone.all_labels.tolist()
        assert all(map(torch.equal, images.frozen.rows[:2], alone.frozen.rows[:2]))
    with pytest.raises(UserError, match="5 devices for 4 images"):
        images_of(0, 5)


def test_the_deployed_preprocessing_is_that_of_the_run(before):
    assert fitted(before, steps=1).deployment.preprocessing.name == "raw"


OBJECTIVES = [
    (LinearGradientMatching(heads=4), 2),
    (LinearGradientMatching(heads=4, view="clean"), 2),
    (InContext(queries=16, query_view="augmented"), 2),
    (WeightedSum([LinearGradientMatching(heads=4), InContext(queries=16)], [0.1, 1.0]), 0),
    (WeightedSum([LinearGradientMatching(heads=4), LinearGradientMatching(view="clean")], [0.1, 1.0]), 3),
]


@pytest.mark.parametrize(("objective", "number"), OBJECTIVES)
def test_the_gradient_is_that_of_the_loss_of_all_rows(before, objective, number):
    """Against autograd through one pass over everything: constants beside what the new pyramids become."""
    module = fitted(before, objective, number, chunk=3)
    images, viewer, step = module.images, module.viewer, 7
    real = module.real(step)

    def generator() -> torch.Generator:
        return keyed_generator(0, "objective", step)

    images.zero_gradients()
    loss = backpropagate(images, viewer, module.objective, real, step, generator, lambda scalar: scalar.backward())
    found = [level.grad.clone() for level in images.pyramid.levels]

    for level in images.pyramid.levels:
        level.grad = None
    rows = len(images.mine) * viewer.rows_of_image
    z = viewer.embedder(images, step)(slice(0, rows)).unflatten(0, (4, viewer.rows_of_image))
    labels = torch.arange(10).repeat_interleave(2)

    def labelled(frozen: torch.Tensor, new: torch.Tensor) -> LabelledEmbeddings:
        views = new.shape[1]
        return LabelledEmbeddings(torch.cat([frozen, new]).flatten(0, 1), labels.repeat_interleave(views), views)

    clean = augmented = None
    if viewer.clean:
        clean = augmented = labelled(ContextSet.load(before).embeddings[:, None], z[:, :1])
    if viewer.views:
        order = torch.randperm(VIEWS, generator=keyed_generator(0, "frozen views", step))[: viewer.views]
        augmented = labelled(images.frozen._views[:, order], z[:, viewer.clean :])
    expected = module.objective.loss(Views(clean, augmented), real, 10, generator())
    torch.testing.assert_close(loss, expected.detach())
    expected.backward()
    assert max(float(gradient.abs().max()) for gradient in found) > 0
    for gradient, level in zip(found, images.pyramid.levels, strict=True):
        torch.testing.assert_close(gradient, level.grad, rtol=1e-3, atol=1e-6)


def test_each_step_draws_other_views_of_the_same_images(before):
    module = fitted(before, number=3, steps=1)
    frozen = module.images.frozen
    assert frozen._views.shape == (16, VIEWS, 128)
    drawn = [frozen._drawn(step, 3) for step in (0, 0, 1)]
    assert torch.equal(drawn[0].z, drawn[1].z) and not torch.equal(drawn[0].z, drawn[2].z)
    assert drawn[0].y.tolist() == torch.arange(8).repeat_interleave(6).tolist()
    for image, views in enumerate(drawn[0].z.unflatten(0, (16, 3))):
        places = [(frozen._views[image] == view).all(1).nonzero().item() for view in views]
        assert len(set(places)) == 3


def test_soft_labels_of_old_images_leave_nothing_to_new_classes(before, tmp_path):
    found = ContextSet.load(before)
    found.soft_labels = torch.full((16, 8), 1 / 8)
    found.save(tmp_path)
    module = fitted(tmp_path, soft_labels=True)
    rows = module.viewer.context(module.images)
    assert torch.equal(rows.soft_labels[:16, :8], found.soft_labels) and not rows.soft_labels[:16, 8:].any()
    torch.testing.assert_close(rows.soft_labels.sum(1), torch.ones(20))


def test_a_checkpoint_belongs_to_what_it_extends(before):
    module, data = fitted(before, steps=1), ImageDataModule("digits")
    own = module.identity(data)
    for extends in ("0" * 16, None):
        checkpoint = {IDENTITY: own | {"extends": extends}, "state_dict": {}, "optimizer_states": []}
        seal(checkpoint)
        with pytest.raises(
            UserError, match=rf"^--extend={identity_of(module.extended)}: .* made with {extends}, which"
        ):
            check_identity(checkpoint, own)


def test_what_identifies_a_context_set(before):
    found = ContextSet.load(before)
    first = identity_of(found)
    found.images = found.images.clone()
    found.images[0, 0, 0, 0] ^= 1
    assert identity_of(found) != first and len(first) == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ipc": 1}, r"^--model\.ipc=1: the run that is extended was made with 2, which new images cannot change"),
        ({"size": 40}, r"^--model\.images\.size=40: the run that is extended was made with 32"),
        ({"soft_labels": True}, r"^--model\.images\.soft_labels=True: .* made with False"),
        ({"backbone": "mini_conv"}, r"^--backbone\.name=mini_conv: .* made with mini,"),
    ],
)
def test_settings_that_new_images_cannot_change(before, settings, message):
    if "backbone" in settings:
        settings = {"backbone": create_backbone(settings["backbone"])}
    with pytest.raises(UserError, match=message):
        fitted(before, **settings)


def test_context_sets_that_cannot_be_extended(before, tmp_path):
    found = ContextSet.load(before)
    found.labels = found.labels.flip(0)
    found.save(tmp_path / "order")
    with pytest.raises(UserError, match=r"^--extend: its rows are not 2 of each of its 8 classes"):
        fitted(tmp_path / "order")
    found.images = None
    found.save(tmp_path / "bare")
    with pytest.raises(UserError, match=r"^--extend: this context set is of bare vectors"):
        fitted(tmp_path / "bare")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([str(digit) for digit in range(10)], r"^--extend: there is no new class, all 10 are in the run"),
        (["7", "6"], r"^--extend: the classes of its dataset are no longer its own"),
    ],
)
def test_datasets_that_do_not_extend(before, tmp_path, names, message):
    found = ContextSet.load(before)
    picked = torch.arange(2 * len(names)) % 16
    found.images, found.embeddings = found.images[picked], found.embeddings[picked]
    found.labels, found.class_names = torch.arange(len(names)).repeat_interleave(2), names
    found.save(tmp_path)
    with pytest.raises(UserError, match=message):
        fitted(tmp_path)
