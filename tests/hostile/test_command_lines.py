"""Command lines that are wrong: each is refused in one line that names the flag or file, and leaves the disk alone."""

import contextlib
import hashlib
import io
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthicl.cli import fit
from synthicl.cli import main as cli_main
from synthicl.cli.main import main
from synthicl.core.files import write_whole

TINY = [
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--model.images.grow_every=1",
    "--tabicl.preprocessing=rotated4",
    "--tabicl.n_estimators=1",
    "--random_draws=1",
]


def call(*args):
    """Exit code, stdout and stderr of ``synthicl``, in process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(args))
    return code, out.getvalue(), err.getvalue()


def contents(folder):
    """What lies in a folder, byte for byte."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def once():
    """Lightning's parser is built once, as building it takes longer than refusing a command line."""
    setup, made = fit.DistillCLI.setup_parser, {}

    def setup_once(self, *args):
        if made:
            self.__dict__.update(made)
        else:
            setup(self, *args)
            made.update(parser=self.parser, _subcommand_parsers=self._subcommand_parsers)
            made.update(_subcommand_method_arguments=self._subcommand_method_arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.DistillCLI, "setup_parser", setup_once)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, once):
    """A finished run of two steps, not scored."""
    outputs = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.DistillCLI, "after_fit", lambda self: None)
        code, _, err = call("fit", "-c", "data/digits", *TINY, f"--output_dir={outputs}")
    assert code == 0, err
    return outputs / "digits" / "version_0"


@pytest.fixture(scope="module")
def place(tmp_path_factory, run, write_image):
    """Files that command lines name as {place}/..., beside {run}."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").write_text("text")
    (folder / "empty").mkdir()
    files = {
        "list": "[1, 2]",
        "broken": "a: [",
        "tag": "model: !!python/object/apply:os.system [exit]",
        "circle": "a: &a\n  b: *a",
        "bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
        "deep": "[" * 5000,
        "date": "a: 2001-99-99",
        "group": "data: my.yaml",
        "include": "include: digits",
        "missing": "include: [gone.yaml]",
        "unknown": "model: {lrr: 1}",
        "words": "just words",
        "callback": "trainer: {callbacks: [{class_path: os.system}]}",
    }
    for name, text in files.items():
        write_whole(folder / f"{name}.yaml", lambda path, text=text: path.write_text(text))
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "list.txt").write_text("gone.png\n")
    for name, content in (
        ("empty.ckpt", b""),
        ("text.ckpt", b"no checkpoint"),
        ("zip.ckpt", b"PK\x03\x04" + 99 * b"x"),
    ):
        checkpoint = folder / "runs" / name.partition(".")[0] / "checkpoints" / name
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(content)
        checkpoint.parents[1].joinpath("config.yaml").write_bytes((run / "config.yaml").read_bytes())
    for names in (("more/ten",), ("known/3",), ("few/ten",), ("clash/e\u0301", "clash/\u00e9")):
        for name in names:
            for index in range(1 if "few" in name else 4):
                write_image(folder / name / f"{index}.png", seed=index)
    (folder / "bare").mkdir()
    shutil.copy(run / "context.safetensors", folder / "bare")
    shutil.copytree(run, folder / "damaged")
    content = bytearray((run / "context.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "damaged" / "context.safetensors").write_bytes(content)
    return folder


BETWEEN = r"must lie between"
TOO_SMALL = r"must be at least"
PARSED = r"(Parser key|unrecognized|Expected|invalid|Invalid|not possible|Problem|Unable|expected|argument)"
FIT = [
    # What there is no such thing as.
    ("--model.lrr=1", r"--model\.lrr"),
    ("--model.ip=5", r"--model\.ip"),
    ("--nope=1", r"--nope"),
    ("-x 1", r"-x: unknown"),
    ("--trainer.max_stepz=3", r"--trainer\.max_stepz"),
    ("--ckpt_pat=x", r"--ckpt_pat: not a setting"),
    ("--model.lr", r"--model\.lr: a value is missing"),
    ("--data={name:digits}", r"--data: not a setting"),
    ("--include=[a]", r"--include=\[a\]: only a configuration file"),
    ("--data.name=nope", r"--data\.name=nope: unknown"),
    ("--data.name=", r"data\.name"),
    ("--data.name=../x", r"--data\.name=\.\./x: unknown"),
    ("--backbone.name=nope", r"--backbone\.name=nope: unknown"),
    ("--backbone.weights={place}/gone", r"--backbone\.weights"),
    ("--backbone.weights={place}/empty", r"--backbone\.weights|{place}/empty"),
    ("--backbone.weights={place}/file", r"--backbone\.weights|{place}/file"),
    ("--backbone.compile=maybe", PARSED),
    ("--tabicl.checkpoint=v9", r"--tabicl\.checkpoint=v9: unknown"),
    ("--tabicl.model_path={place}/gone", r"--tabicl\.model_path"),
    ("--tabicl.model_path={place}/file", r"--tabicl\.model_path|{place}/file"),
    ("--tabicl.preprocessing=pca", r"--tabicl\.preprocessing=pca: unknown"),
    ("--tabicl.preprocessing=rotated0", r"--tabicl\.preprocessing=rotated0"),
    ("--tabicl.preprocessing=pca-4", r"--tabicl\.preprocessing=pca-4: unknown"),
    ("--tabicl.preprocessing=auto --tabicl.candidates=[]", r"--tabicl\.candidates=\[\]: nothing to choose"),
    ("--tabicl.preprocessing=auto --tabicl.candidates=[nope]", r"=nope: unknown"),
    ("--tabicl.candidates=7", PARSED),
    ("--model.objective=nope", r"--model\.objective=nope: unknown"),
    ("--model.objective=os.system", r"os\.system"),
    ("--model.objective=no.such.Class", r"no\.such\.Class"),
    ("--model.optimizer=Nope", r"Nope"),
    ("--model.optimizer=LBFGS", r"--model\.optimizer"),
    ("--model.optimizer.lr=1", r"the learning rate is --model\.lr"),
    ("--model.optimizer=Adam --model.optimizer.betas=[2,3]", r"--model\.optimizer|betas"),
    ("--model.optimizer=Adam --model.optimizer.eps=-1", r"--model\.optimizer|eps"),
    ("--model.optimizer=Adam --model.optimizer.weight_decay=-1", r"--model\.optimizer|weight_decay"),
    ("--trainer.callbacks=no.such.Callback", r"no\.such\.Callback"),
    ("--trainer.callbacks=os.system", r"os\.system"),
    (
        "--trainer.callbacks+=synthicl.distillation.callbacks.probe_evaluation.ProbeEvaluation "
        "--trainer.callbacks.probe=nope",
        r"=nope: unknown",
    ),
    # Files of settings.
    ("-c gone.yaml", r"-c gone\.yaml: no such file"),
    ("-c data/gone", r"-c data/gone: unknown dataset"),
    ("-c {place}/empty", r"-c {place}/empty: no such file"),
    ("-c {place}/list.yaml", r"-c {place}/list\.yaml: holds no settings"),
    ("-c {place}/words.yaml", r"-c {place}/words\.yaml: holds no settings"),
    ("-c {place}/broken.yaml", r"-c {place}/broken\.yaml: not valid YAML"),
    ("-c {place}/tag.yaml", r"-c {place}/tag\.yaml: not valid YAML"),
    ("-c {place}/circle.yaml", r"-c {place}/circle\.yaml: stands for over"),
    ("-c {place}/bomb.yaml", r"-c {place}/bomb\.yaml: stands for over"),
    ("-c {place}/deep.yaml", r"-c {place}/deep\.yaml: not valid YAML"),
    ("-c {place}/date.yaml", r"-c {place}/date\.yaml: not valid YAML"),
    ("-c {place}/bytes.yaml", r"-c {place}/bytes\.yaml: not valid YAML"),
    ("-c {place}/loop.yaml", r"-c {place}/loop\.yaml"),
    ("-c {place}/group.yaml", r"-c {place}/group\.yaml: data: not a setting"),
    ("-c {place}/include.yaml", r"-c {place}/include\.yaml: include must be a list"),
    ("-c {place}/missing.yaml", r"gone\.yaml: no such file"),
    ("-c {place}/unknown.yaml", r"lrr"),
    ("-c {place}/callback.yaml", r"os\.system|callbacks"),
    ("-c " + "x" * 5000, r"-c x+: cannot be a file"),
    # Where a run goes.
    ("--output_dir={place}/file", r"--output_dir={place}/file: {place}/file is not a folder"),
    ("--output_dir={place}/file/below", r"--output_dir={place}/file/below: {place}/file is not a folder"),
    ("--output_dir={place}/loop.yaml", r"--output_dir={place}/loop\.yaml"),
    ("--output_dir=/proc/nope", r"--output_dir=/proc/nope: /proc cannot be written to"),
    ("--output_dir=/dev/null", r"--output_dir=/dev/null: /dev/null is not a folder"),
    ("--output_dir={place}/" + "x" * 300, r"--output_dir"),
    # Numbers of the Trainer.
    *((f"--trainer.max_steps={value}", r"max_steps") for value in ("0", "-1", "nan", "1.5", "many", "9" * 20)),
    *((f"--trainer.max_epochs={value}", r"max_epochs") for value in ("0", "-2", "nan", "9" * 20)),
    *(
        (f"--trainer.max_time={value}", r"max_time")
        for value in ("0", "00:00:00:00", "-1", "soon", "00:00:00:-5", "{}")
    ),
    *(
        (f"--trainer.val_check_interval={value}", r"val_check_interval")
        for value in ("0", "0.0", "-1", "1.5", "-0.5", "nan", "inf", "often", "00:00:00:00")
    ),
    *(
        (f"--trainer.devices={value}", r"devices")
        for value in ("0", "-2", "11", "99", "999999999999", "none", "1.5", "[]", "[0,0]", "[-1]", "0,0", "auto,1")
    ),
    *(
        (f"--trainer.accelerator={value}", r"--trainer\.accelerator=" + value)
        for value in ("nope", "cuda", "gpu", "tpu", "mps")
    ),
    *((f"--trainer.precision={value}", r"precision") for value in ("7", "bf16-true", "16-true", "double", "nan")),
    *((f"--trainer.strategy={value}", r"strategy") for value in ("nope", "fsdp", "deepspeed", "ddp_spawn", "7")),
    *((f"--trainer.num_nodes={value}", r"num_nodes") for value in ("0", "-1", "x")),
    *((f"--trainer.log_every_n_steps={value}", r"log_every_n_steps") for value in ("-1", "x")),
    *((f"--trainer.limit_val_batches={value}", r"limit_val_batches") for value in ("0", "0.0", "-1", "0.5", "2")),
    ("--trainer.limit_train_batches=0", r"limit_train_batches"),
    ("--trainer.limit_test_batches=0", r"limit_test_batches"),
    ("--trainer.overfit_batches=1", r"overfit_batches"),
    ("--trainer.fast_dev_run=true", r"fast_dev_run"),
    ("--trainer.barebones=true", r"barebones"),
    ("--trainer.logger=false", r"logger"),
    ("--trainer.enable_checkpointing=false", r"enable_checkpointing"),
    ("--trainer.gradient_clip_val=1", r"gradient_clip_val"),
    ("--trainer.gradient_clip_algorithm=norm", r"gradient_clip_algorithm"),
    ("--trainer.accumulate_grad_batches=2", r"accumulate_grad_batches"),
    ("--trainer.accumulate_grad_batches=0", r"accumulate_grad_batches"),
    ("--trainer.check_val_every_n_epoch=0", r"check_val_every_n_epoch"),
    ("--trainer.reload_dataloaders_every_n_epochs=-1", r"reload_dataloaders_every_n_epochs"),
    ("--trainer.min_epochs=-1", r"min_epochs"),
    ("--trainer.min_steps=-5", r"min_steps"),
    ("--trainer.num_sanity_val_steps=-2", r"num_sanity_val_steps"),
    ("--trainer.profiler=nope", r"profiler|not possible"),
    ("--trainer.plugins=nope", r"plugins|nope"),
    ("--weights_only=false", r"--weights_only=False: checkpoints are data"),
    ("--seed_everything=-1", r"--seed_everything=-1: " + BETWEEN),
    ("--seed_everything=" + "9" * 20, r"--seed_everything=9+: " + BETWEEN),
    # Numbers of the images.
    *((f"--random_draws={value}", r"random_draws") for value in ("0", "-1", "1.5", "nan", "1000000000")),
    *((f"--model.ipc={value}", r"model\.ipc") for value in ("0", "-1", "1.5", "nan", "1000000000", "9" * 20)),
    *((f"--model.lr={value}", r"model\.lr") for value in ("0", "-1", "nan", "inf", ".nan", ".inf", "-.inf", "fast")),
    *((f"--model.seed={value}", r"model\.seed") for value in ("x", "1.5")),
    *((f"--model.images.size={value}", r"images\.size") for value in ("0", "-1", "16", "100000", "9" * 20, "big")),
    *((f"--model.images.grow_every={value}", r"grow_every") for value in ("0", "-3", "x")),
    ("--model.images.parameterisation=nope", r"parameterisation"),
    ("--model.images.init=nope", r"init"),
    ("--model.images.decorrelate=7", r"decorrelate"),
    ("--model.images.soft_labels=true", r"--model\.images\.soft_labels=true"),
    ("--model.lr_schedule=nope", r"lr_schedule"),
    *((f"--model.views.number={value}", r"views\.number") for value in ("-1", "1000000000", "x")),
    *((f"--model.views.crop_size={value}", r"crop_size") for value in ("0", "-1", "1", "33", "100000", "x")),
    *((f"--model.views.chunk_size={value}", r"chunk_size") for value in ("0", "-1", "x")),
    *((f"--model.real.bank_views={value}", r"bank_views") for value in ("-1", "1000000000", "x")),
    *((f"--model.real.bank_batch_size={value}", r"bank_batch_size") for value in ("0", "-1", "x")),
    ("--model.real.source=nope", r"source"),
    *((f"--data.num_workers={value}", r"num_workers") for value in ("-1", "1000000", "x")),
    *((f"--data.split_seed={value}", r"split_seed") for value in ("-1", "9" * 20, "x")),
    *((f"--tabicl.n_estimators={value}", r"n_estimators") for value in ("0", "-3", "1000000000", "x")),
    *((f"--tabicl.max_queries={value}", r"max_queries") for value in ("0", "-1", "x")),
    *(
        (f"--model.views.augmentation.{name}={value}", rf"augmentation\.{name}")
        for name, values in {
            "flip": ("-0.1", "1.1", ".nan", ".inf", "x"),
            "area": ("[0,1]", "[1,0.5]", "[0.5,2]", "[-1,1]", "[.nan,1]", "[0.5]", "0.5"),
            "ratio": ("[0,1]", "[2,1]", "[-1,1]", "[1,.inf]", "[.nan,1]"),
            "noise_probability": ("-1", "2", ".nan"),
            "noise_mean": (".nan", ".inf", "x"),
            "noise_std": ("-1", ".nan", ".inf"),
            "color": ("-0.1", "1.1", ".nan"),
            "crop": ("nope",),
        }.items()
        for value in values
    ),
]
RESUMED = [
    ("--ckpt_path={place}/gone.ckpt", r"--ckpt_path={place}/gone\.ckpt: no such file"),
    ("--ckpt_path={place}/empty", r"--ckpt_path={place}/empty: no such file"),
    ("--ckpt_path={place}/file", r"config\.yaml is missing"),
    ("--ckpt_path=" + "x" * 5000, r"--ckpt_path=x+: cannot be a file"),
    ("--ckpt_path={place}/runs/empty/checkpoints/empty.ckpt", r"empty\.ckpt: not a checkpoint, or damaged"),
    ("--ckpt_path={place}/runs/text/checkpoints/text.ckpt", r"text\.ckpt: not a checkpoint, or damaged"),
    ("--ckpt_path={place}/runs/zip/checkpoints/zip.ckpt", r"zip\.ckpt: not a checkpoint, or damaged"),
    ("--ckpt_path={run}/config.yaml", r"config\.yaml is missing"),
]
OWN = "--ckpt_path={run}/checkpoints/last.ckpt "
CHANGED = [
    (OWN + flag, message)
    for flag, message in (
        ("--model.ipc=2", r"--model\.ipc=2: the checkpoint was made with 1"),
        ("--model.seed=5", r"--model\.seed=5: the checkpoint was made with 0"),
        ("--model.images.size=40", r"--model\.images\.size=40: the checkpoint was made with 32"),
        ("--model.objective=ridge", r"--model\.objective=Ridge"),
        ("--model.optimizer=NAdam", r"--model\.optimizer=NAdam"),
        ("--backbone.name=mini_conv", r"--backbone\.name=mini_conv"),
        ("--data.split_seed=4", r"--data\.split_seed=4: the checkpoint was made with 0"),
        ("--tabicl.preprocessing=rotated8", r"--tabicl\.preprocessing=rotated8: the checkpoint was made with rotated4"),
        ("--trainer.max_steps=0", r"--trainer\.max_steps=0"),
        ("--random_draws=0", r"--random_draws=0"),
        ("--trainer.callbacks=os.system", r"os\.system"),
    )
]
MORE = "--data.root={place}/more"
EXTENDED = [
    (f"--extend={{place}}/gone {MORE}", r"--extend={place}/gone: not a folder"),
    (f"--extend={{place}}/file {MORE}", r"--extend={place}/file: not a folder"),
    (f"--extend={'x' * 5000} {MORE}", r"--extend=x+: not a folder"),
    (f"--extend={{place}}/empty {MORE}", r"--extend: {place}/empty: no context set there"),
    (f"--extend={{place}}/runs/empty {MORE}", r"--extend={place}/runs/empty: this run has not come to its end"),
    (f"--extend={{place}}/bare {MORE}", r"--extend={place}/bare: config\.yaml is missing"),
    (f"--extend={{place}}/damaged {MORE}", r"damaged/context\.safetensors: not a context set, or damaged \(.*checksum"),
    (f"--exten={{run}} {MORE}", r"--exten: not a setting"),
    ("--extend={run}", r"--extend={run}: the new images are missing"),
    ("--extend={run} --data.root={place}/gone", r"--data\.root={place}/gone: not a folder"),
    ("--extend={run} --data.root={place}/file", r"--data\.root={place}/file: not a folder"),
    ("--extend={run} --data.root={place}/empty", r"{place}/empty: found 0 class folders .* at least one class is"),
    ("--extend={run} --data.root={place}/few", r"--data\.root={place}/few: no val images of class 'ten'"),
    ("--extend={run} --data.root={place}/known", r"--extend: there is no new class, all 10 are in the run"),
    ("--extend={run} --data.root={place}/clash", r"--data\.root={place}/clash: two classes look the same"),
    ("--extend={run} --data.more=[]", r"--extend: there is no new class"),
    ("--extend={run} --data.more={place}/more", r"--data\.more={place}/more must be a list of folders"),
    (
        "--extend={run} --data.more=[{place}/gone]",
        r"further images: not found .*{place}/gone.*Supply it with --data\.more",
    ),
    ("--extend={run} --data.more=[", r"--data\.more=\[ must be a list of folders"),
    *(
        (f"--extend={{run}} {MORE} {flag}", message)
        for flag, message in (
            (
                "--data.name=folder",
                r"--data\.name=folder: --extend puts a folder .* beside the dataset of {run}, digits",
            ),
            ("-c data/groceries", r"--data\.name=groceries: --extend puts"),
            ("--backbone.name=mini_conv", r"--backbone\.name=mini_conv: .* made with mini, which new images cannot"),
            ("--model.ipc=2", r"--model\.ipc=2: .* made with 1, which new images cannot"),
            ("--model.images.size=40", r"--model\.images\.size=40: .* made with 32"),
            ("--model.views.crop_size=24", r"--model\.views\.crop_size=24: the backbone refuses it"),
            ("--trainer.devices=2", r"--trainer\.devices: 2 devices for 1 images"),
            ("--model.extend={run}", r"model\.extend|unrecognized|not"),
        )
    ),
]
STUDIES = [
    ("compare", r"too few|required|subject"),
    ("compare {place}/gone", r"{place}/gone: neither a folder with a context set"),
    ("compare {place}/empty", r"{place}/empty: neither a folder"),
    ("compare {place}/file", r"{place}/file: neither a folder"),
    ("compare digitz", r"digitz: neither a folder"),
    ("compare " + "x" * 5000, r"x+"),
    ("compare {run} --nope=1", r"--nope"),
    ("compare {run} --probe=linear", r"--probe"),
    ("compare {run} --probes=nope", r"--probes=nope: unknown"),
    *(
        (
            f"{study} {{run}} --probes=tabicl,{name}",
            rf"--probes={name}: (the package tab\w+ is not|SYNTHICL_.*it is not set)",
        )
        for study, name in (("compare", "comb"), ("compare", "tabdpt"), ("few-shot", "tabpfn"))
    ),
    ("compare {run} --contexts=nope", r"--contexts=nope: unknown"),
    ("compare {run} --contexts=neighbors", r"--contexts=neighbors: unknown"),
    ("compare {run} --checkpoints=nope --probes=tabicl", r"--checkpoints=nope"),
    ("compare {run} --preprocessings=nope --probes=tabicl", r"=nope: unknown"),
    *((f"compare {{run}} --random_draws={value}", r"random_draws") for value in ("0", "-1", "1000000000", "x", "nan")),
    *((f"compare {{run}} --reference_seeds={value}", r"reference_seeds") for value in ("0", "-1", "x")),
    *((f"compare {{run}} --ipc={value}", r"--ipc|ipc") for value in ("0", "-1", "x", "1.5")),
    ("compare {run} --data.split_seed=3", r"--data\.split_seed=3: .* has its own"),
    ("compare {run} --backbone.name=mini_conv", r"--backbone\.name=mini_conv: .* has its own"),
    ("compare {run} --tabicl.n_estimators=2", r"--tabicl\.n_estimators=2: .* has its own"),
    ("compare {run} --backbone.weights={place}/gone", r"--backbone\.weights"),
    ("compare {run} --tabicl.model_path={place}/gone", r"--tabicl\.model_path"),
    *((f"compare digits --data.split_seed={value}", r"split_seed") for value in ("-1", "9" * 20, "x", "1.5")),
    *((f"compare digits --tabicl.n_estimators={value}", r"n_estimators") for value in ("0", "-3", "x", "1000000000")),
    ("compare digits --backbone.name=nope", r"--backbone\.name=nope: unknown"),
    ("compare digits --tabicl.checkpoint=nope", r"--tabicl\.checkpoint=nope: unknown"),
    ("compare digits --tabicl.preprocessing=nope --contexts=random", r"=nope: unknown"),
    ("compare folder --data.root={place}/gone", r"{place}/gone"),
    ("compare {run} --output={place}/file", r"{place}/file"),
    *((f"scaling {{run}} --shares={value}", r"shares") for value in ("0", "2", "-1", "nan", "x", "[]")),
    *((f"scaling {{run}} --seeds={value}", r"seeds") for value in ("0", "-1", "x", "1000000000")),
    *((f"scaling {{run}} --max_rows={value}", r"max_rows") for value in ("0", "1", "-1", "x")),
    ("scaling {run} --samplings=nope", r"--samplings=nope: unknown"),
    *((f"few-shot {{run}} --ways={value}", r"--ways|ways") for value in ("-1", "0", "1", "11", "x")),
    *((f"few-shot {{run}} --shots={value}", r"--shots|shots") for value in ("0", "-1", "100000", "x")),
    *((f"few-shot {{run}} --half_width={value}", r"half_width") for value in ("0", "-1", ".nan", ".inf", "x")),
    *((f"few-shot {{run}} --budget_seconds={value}", r"budget_seconds") for value in ("-1", ".nan", ".inf", "x")),
    *((f"few-shot {{run}} --episodes={value}", r"episodes") for value in ("0", "1", "-1", "1000000000", "x")),
    *((f"few-shot {{run}} --queries={value}", r"queries") for value in ("0", "-1", "x")),
    ("few-shot {run} --probes=linear_reference", r"--probes=linear_reference: is fitted on images"),
    ("few-shot {run} --probes=nope", r"--probes=nope: unknown"),
    *((f"boundary {{run}} --resolution={value}", r"resolution") for value in ("1", "0", "-1", "1000000", "x")),
    ("boundary {run} --contexts=nope", r"--contexts=nope: unknown"),
    *((f"icl-vs-gd {{run}} --steps={value}", r"steps") for value in ("0", "-1", "1000000000000", "x")),
    *((f"icl-vs-gd {{run}} --random_draws={value}", r"random_draws") for value in ("0", "-1", "x")),
    *((f"icl-vs-gd {{run}} --learning_rates={value}", r"learning_rates") for value in ("[]", "0", "-1", ".nan", "x")),
    *((f"transfer {{run}} --random_draws={value}", r"random_draws") for value in ("0", "-1", "x")),
    ("transfer {run} --backbones=nope", r"nope"),
    ("transfer {run} --runs={place}/gone", r"{place}/gone"),
    ("transfer {run} --runs={place}/empty", r"{place}/empty"),
    ("transfer {run} --weights=nope", r"--weights=nope: give name=path"),
    ("transfer {run} --weights=mini={place}/gone", r"{place}/gone|--weights"),
    *((f"privacy {{run}} --max_images={value}", r"max_images") for value in ("1", "0", "-1", "x")),
    ("publish", r"subject|required"),
    ("publish {run}", r"a repository is required"),
    ("publish {place}/gone me/set", r"{place}/gone: no context set there"),
    ("publish digits me/set", r"digits: no context set there"),
    ("publish {run} set", r"set: not the id of a repository"),
    ("publish {run} me/set --upload=maybe", r"upload"),
    ("publish {run} me/set --nope=1", r"nope"),
    ("predict", r"subject|required"),
    ("predict {run}", r"images|required"),
    ("predict {place}/gone {run}/images", r"{place}/gone"),
    ("predict digits {run}/images", r"digits"),
    ("predict {run} {place}/gone", r"{place}/gone: no such file or folder"),
    ("predict {run} {place}/empty", r"{place}/empty"),
    ("predict {run} {run}/images --batch_size=0", r"batch_size"),
    ("predict {run} {run}/images --batch_size=-1", r"batch_size"),
    ("predict {run} {run}/images --batch_size=x", r"batch_size"),
    *((f"predict {{run}} {{run}}/images --{f}={v}", f) for f in ("coverage", "reject") for v in ("0", "1", "nan", "x")),
    ("predict {run} --reject", r"images|required"),
    ("predict {run} {run}/images --reject 0.9", r"0\.9: one word too many\. .* as in --reject=0\.9\."),
    ("predict {run} {run}/images --reject={run}/images", r"reject"),
    ("predict {run} {run}/images --reject -0.5", r"-0\.5: unknown\. Flags are written as --name=value\."),
    ("predict {run} {run}/images --reject=", r"reject"),
    ("publish {run} me/set more", r"more: one word too many"),
    ("predict {run} {run}/images --nope=1", r"--nope"),
    ("trust {run} --others=nope", r"nope"),
    ("trust {run} --others=digits", r"--others=digits: is what .* was made from"),
    ("trust {run} --noise=1", r"--noise=1"),
    ("trust {run} --contexts=nope", r"nope"),
    ("predict {run} {run}/images --backbone.weights={place}/gone", r"--backbone\.weights"),
    ("export", r"subject|required"),
    ("export {run}", r"export: what to write is missing\. Give --onnx or --student, or --onnx=FILE"),
    ("export --onnx", r"export: a subject is required"),
    ("export digits --onnx", r"digits: no context set there"),
    ("export {run} x.onnx --onnx", r"x\.onnx"),
    ("export {run} --onnx --nope=1", r"--nope"),
    ("export {run} --onnx={place}/empty", r"--onnx={place}/empty: is a folder\. Name a file"),
    ("export {run} --onnx={place}/file/x.onnx", r"--onnx={place}/file/x\.onnx: {place}/file is not a folder"),
    ("export {run} --onnx={run}/context.safetensors", r"context\.safetensors, which is read\. Name another file"),
    ("export {run} --onnx --backbone.weights={place}/gone", r"--backbone\.weights"),
    ("export --student", r"export: a subject is required"),
    ("export digits --student", r"digits: no context set there"),
    ("export {run} --student={place}/empty", r"--student={place}/empty: is a folder\. Name a file"),
    ("export {run} --student={run}/context.safetensors", r"context\.safetensors, which is read\. Name another file"),
    ("export {run} --student={run}/config.yaml", r"config\.yaml, which is read\. Name another file"),
    ("export {run} --onnx=a.onnx --student=./a.onnx", r"--student=\./a\.onnx: is the file that --onnx names"),
    ("export {run} --onnx --student_steps=5", r"--student_steps=5: is for --student, which is not asked for"),
    *(
        (f"export {{run}} --student --student_{name}={value}", rf"student_{name}")
        for name, value in (("views", 1), ("views", "x"), ("steps", 0), ("seed", -1), ("seed", 2**63), ("nope", 1))
    ),
    ("nope", r"nope: unknown command"),
    ("fit", r"data\.name"),
    ("validate", r"data\.name|ckpt"),
    ("nope --help", r"nope: unknown command"),
]
TABLE = [
    *((f"fit -c data/digits {' '.join(TINY)} --output_dir={{place}}/out {flags}", said) for flags, said in FIT),
    *((f"{command} {flags}", said) for command in ("fit", "validate", "test") for flags, said in RESUMED),
    *((f"fit {flags}", said) for flags, said in (*CHANGED, *EXTENDED)),
    *((f"validate {OWN}{flags}", said) for flags, said in FIT[:20] if "{place}/out" not in flags and "-c" not in flags),
    *STUDIES,
]


def test_the_table_is_large():
    assert len(TABLE) >= 150


@pytest.mark.parametrize(("line", "said"), TABLE, ids=[f"{n}-{line[-60:]}" for n, (line, _) in enumerate(TABLE)])
def test_a_wrong_command_line_gets_one_line_and_changes_nothing(line, said, place, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where predictions.csv and outputs/ would go
    args = [argument.replace("{place}", str(place)).replace("{run}", str(run)) for argument in line.split()]
    before = contents(place), contents(run)
    code, _, err = call(*args)
    assert "Traceback" not in err
    assert code == 2, err
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert len(lines) == 1, err
    pattern = said.replace("{place}", re.escape(str(place))).replace("{run}", re.escape(str(run)))
    assert re.search(pattern, lines[0]), err
    assert (contents(place), contents(run), list(tmp_path.iterdir())) == (*before, [])


VALUES = st.one_of(
    st.integers(-5, 5),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["nan", ".nan", ".inf", "-.inf", "1e400", "0x10", "1_000", "", "null", "[]", "[1,2]", "{}", "a b"]),
).map(str)


class ReachedError(BaseException):
    """All is accepted: the run would begin."""


@pytest.fixture
def numeric_flags(once, run, monkeypatch):
    """Every flag of ``fit`` that takes a number, and a run that ends where it would begin."""
    seen = []

    def reached(self, subcommand):
        seen.append(self._parser("fit"))
        raise ReachedError

    monkeypatch.setattr(fit.DistillCLI, "_run_subcommand", reached)
    monkeypatch.setattr("synthicl.cli.main._end", _end)
    assert call("fit", "-c", "data/digits", *TINY)[0] == "reached"
    hints = {action.dest: str(getattr(action, "_typehint", None) or action.type) for action in seen[0]._actions}
    return sorted(f"--{name}" for name, hint in hints.items() if re.search(r"\b(int|float)\b", hint))


END = cli_main._end


def _end(error, resumes):
    return "reached" if isinstance(error, ReachedError) else END(error, resumes)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_every_number_is_accepted_or_refused_in_one_line(numeric_flags, tmp_path, data):
    assert {"--model.ipc", "--trainer.max_steps", "--random_draws", "--model.images.size"} <= set(numeric_flags)
    flag, value = data.draw(st.sampled_from(numeric_flags)), data.draw(VALUES)
    code, _, err = call("fit", "-c", "data/digits", *TINY, f"--output_dir={tmp_path / 'out'}", f"{flag}={value}")
    assert code in ("reached", 2), (flag, value, err)
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == (code == 2), err
    assert not (tmp_path / "out").exists()
