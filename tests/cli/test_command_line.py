import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthicl.cli import command_line
from synthicl.cli.command_line import EARLY, Flag, agree, expand, split, with_defaults, written
from synthicl.core.configuration import CONFIGS
from synthicl.core.errors import UserError

LGM = Flag("--config", str(CONFIGS / "objective" / "lgm.yaml"))


def expanded(*args):
    return list(map(str, expand(split(args)[1])))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: digits, root: here}\ntabicl:\n  checkpoint: mini\n  model_path: null\n")
    return path


def test_a_command_line_is_words_and_flags_in_one_form():
    words, flags = split(["fit", "--a=b=c", "-c", "x", "--d", "-1.5", "y", "-c=z", "--config", "w", "--help", "-h"])
    assert words == ["fit", "y"]
    assert written(words, flags) == [
        *("fit", "y", "--a=b=c", "--config=x", "--d=-1.5", "--config=z", "--config=w", "--help", "-h")
    ]
    assert split(written(words, flags)) == (words, flags)


def test_a_flag_that_may_stand_alone_takes_no_word():
    words, flags = split(["export", "--onnx", "run", "--a", "1"])
    assert (words, flags) == (["export", "run"], [Flag("--onnx", ""), Flag("--a", "1")])
    words, flags = split(["predict", "run", "--reject", "images", "--coverage=0.9", "--coverage"])
    assert words == ["predict", "run", "images"]
    assert flags == [Flag("--reject", "0.95"), Flag("--coverage", "0.9"), Flag("--coverage", "0.95")]
    assert split(written(words, flags)) == (words, flags)
    assert split(["a-study", "--reject", "1"]) == (["a-study"], [Flag("--reject", "1")])
    assert split(["--onnx=x"]) == ([], [Flag("--onnx", "x")])
    assert split(written(words, flags)) == (words, flags)
    assert not command_line.asks_for_help(flags)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--a"], r"^--a: a value is missing\. Write --a=VALUE\.$"),
        (["--a", "--b=1"], r"^--a: a value is missing"),
        (["-cx"], r"^-cx: unknown\. Flags are written as --name=value\.$"),
        (["-d", "1"], r"^-d: unknown"),
    ],
)
def test_flags_without_a_value_or_in_another_form_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        split(["fit", *args])


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--print_config"], ["--print_config=skip_null"], ["--a.help"]])
def test_what_only_shows_something(args):
    assert command_line.asks_for_help(split(["fit", *args])[1])
    assert not command_line.asks_for_help(split(["fit", "--model.lr=1"])[1])


def test_settings_are_dotted_names_and_later_ones_win(tmp_path, config):
    later = tmp_path / "later.yaml"
    later.write_text("data: {root: there}")
    args = ["--data.name=a", "-c", str(config), f"--config={later}", "--tabicl.checkpoint", "v2"]
    assert command_line.settings(split(args)[1]) == {
        "data.name": "digits",
        "data.root": "there",
        "tabicl.checkpoint": "v2",
        "tabicl.model_path": None,
    }


def test_null_takes_a_setting_back():
    assert command_line.settings([Flag("--tabicl.model_path", "null")]) == {"tabicl.model_path": None}


@pytest.mark.parametrize("args", [["--model.objective=lgm"], ["--model.objective", "lgm"]])
def test_objective_is_short_for_its_configuration_in_its_place(args):
    assert expanded("--x=1", *args, "--y=2") == ["--x=1", str(LGM), "--y=2"]


@pytest.mark.parametrize("args", [["--model.objective=my.package.Class"], ["--model.objective", "my.package.Class"]])
def test_objective_may_be_the_path_of_a_class(args):
    assert expanded(*args, "--y=2") == ["--model.objective=my.package.Class", "--y=2"]


def test_message_for_an_unknown_objective():
    with pytest.raises(UserError, match=r"^--model\.objective=lgn: unknown objective\. Choose one of: .*lgm"):
        expanded("--model.objective=lgn")


def test_a_file_is_written_after_what_it_includes():
    files = ["objective/in_context_views", "recipe/photographs", "backbone/efficientnet_lite0", "data/groceries"]
    found = expanded("-c", "data/groceries", "--model.seed=4")
    assert found == [*(f"--config={CONFIGS / file}.yaml" for file in files), "--model.seed=4"]
    assert expanded(*found)[-2:] == found[-2:]


def test_a_flag_does_not_include():
    with pytest.raises(UserError, match=r"--include=\[a\.yaml\]: only a configuration file includes another"):
        expanded("--include=[a.yaml]")


@pytest.mark.parametrize(
    ("flag", "full"),
    [
        ("--ckpt_pat=x", "ckpt_path"),
        ("--data={name: digits}", "data.name"),
        ("--data=my.yaml", "data.name"),
        ("--backbone.w=x", "backbone.weights"),
        ("--tabicl.check=v2", "tabicl.checkpoint"),
    ],
)
def test_groups_and_abbreviations_of_what_is_read_early_are_refused(flag, full):
    message = rf"^{flag.partition('=')[0]}: not a setting\. Write its name in full, such as --{full}=VALUE\.$"
    with pytest.raises(UserError, match=message):
        expanded(flag)


@pytest.mark.parametrize("content", ["data: my.yaml", "config: my.yaml", "config: {}", "data: [1]", "data.nam: digits"])
def test_files_give_groups_of_settings(tmp_path, content):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(UserError, match=r"^-c .*x\.yaml: (data|config|data.nam): not a setting\. Write names in full"):
        expanded("-c", str(tmp_path / "x.yaml"))


def test_run_that_resumes_starts_from_its_own_configuration(tmp_path, config, monkeypatch):
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"^--ckpt_path=.*last\.ckpt: no such file\. Checkpoints lie in outputs/"):
        expanded(f"--ckpt_path={checkpoint}")
    checkpoint.parent.mkdir()
    checkpoint.touch()
    expected = [f"--config={config}", f"--ckpt_path={checkpoint}", "--data.root=moved"]
    assert expanded(f"--ckpt_path={checkpoint}", "--data.root=moved") == expected
    monkeypatch.chdir(checkpoint.parent)
    assert expanded("--ckpt_path", "last.ckpt") == [f"--config={config}", "--ckpt_path=last.ckpt"]
    config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing, which says what the run was made with\."):
        expanded("--ckpt_path=last.ckpt")


def test_two_readings_of_a_setting_are_refused():
    agree({"data.root": "data/", "ckpt_path": None}, {"data.root": Path("data")}.get, ["data.root", "ckpt_path"])
    with pytest.raises(UserError, match=r"^--data\.name: read as 'a' at first and as 'b' then\. Write it as"):
        agree({"data.name": "a"}, {"data.name": "b"}.get, ["data.name"])


@pytest.fixture(scope="module")
def full_parser():
    """The parser that has torch: a command line in the form that it is given -> its settings, or None if refused."""
    from argparse import ArgumentError

    from synthicl.cli import fit

    found = {}

    class ReachedError(Exception):
        """The parser is made."""

    def keep(self, parser, args):
        found["parser"] = parser
        raise ReachedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ReachedError):
        patch.setattr(fit.DistillCLI, "parse_arguments", keep)
        fit.run(["fit"])

    def parse(args):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return found["parser"].parse_args(args)["fit"]
        except ArgumentError:
            return None

    return parse


NAMES = st.sampled_from(["digits", "folder", "'digits'", "null", "1e3", "on", "", "a b", "data/x/", "{a: 1}", "-1"])
KEYS = st.sampled_from(
    [*EARLY, "data.nam", "data", "backbone", "tabicl.model", "ckpt", "model", "mod", "data.name+", "model.ip", "config"]
)
TREES = st.recursive(
    NAMES,
    lambda inner: st.dictionaries(st.sampled_from(["name", "root", "weights", "checkpoint", "ipc"]), inner, max_size=2),
    max_leaves=3,
)
FILES = st.dictionaries(KEYS | st.sampled_from(["data", "backbone", "tabicl"]), TREES, max_size=3)
PARTS = st.one_of(
    st.tuples(st.just("flag"), KEYS, NAMES, st.booleans()),
    st.tuples(st.just("file"), FILES),
    st.tuples(
        st.just("args"), st.sampled_from([["-c", "data/digits"], ["-c=backbone/mini"], ["--model.objective=lgm"]])
    ),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(PARTS, max_size=4))
def test_both_parsers_read_the_same_or_refuse(full_parser, tmp_path, parts):
    """Dataset, backbone, checkpoints and their files, from command lines with what people may write."""
    import yaml

    args = ["fit", "--backbone.name=mini", "--data.name=digits"]
    for number, (kind, *what) in enumerate(parts):
        if kind == "flag":
            name, value, joined = what
            args += [f"--{name}={value}"] if joined else [f"--{name}", value]
        elif kind == "file":
            path = tmp_path / f"{number}.yaml"
            path.write_text(yaml.safe_dump(what[0]))
            args += ["-c", str(path)]
        else:
            args += what[0]
    try:
        words, flags = split(args)
        flags = expand(flags)
    except UserError as error:
        assert "\n" not in str(error)
        return
    parsed = full_parser(written(words, flags))
    if parsed is not None:
        agree(with_defaults(flags), parsed.get, EARLY)


@pytest.mark.parametrize("flag", ["--model.ip=5", "--mod.lr=1", "--output_di=x", "--trainer.max_st=3"])
def test_the_full_parser_takes_no_abbreviation(full_parser, flag):
    args = ["fit", "--backbone.name=mini", "--data.name=digits"]
    assert full_parser(args) is not None
    assert full_parser([*args, flag]) is None


PUBLISHED = {
    "model.objective.class_path": "synthicl.objectives.LinearGradientMatching",
    "model.objective.init_args.heads": 1,
    "model.objective.init_args.head_std": 0.01,
    "model.objective.init_args.logit_std": None,
    "model.objective.init_args.balanced": False,
    "model.real.source": "online",  # over each epoch without replacement, the last partial batch dropped
    "model.views.number": 10,
    "model.views.augmentation.crop": "across",
    "model.views.augmentation.noise_probability": 0.5,
    "model.views.augmentation.noise_mean": 0.5,
    "model.views.augmentation.noise_std": 0.2,
    "model.views.augmentation.color": 0.0,
    "model.optimizer.class_path": "torch.optim.Adam",
    "model.lr": 0.002,
    "model.lr_schedule": "constant",
    "model.images.parameterisation": "pyramid",
    "model.images.decorrelate": True,
    "model.images.grow_every": 200,
    "trainer.max_steps": 5001,  # steps 0 to 5,000
}
"""What the public code of linear gradient matching does, commit 1d84ffd (docs/how-it-works.md)."""


@pytest.mark.parametrize("data", ["digits", "imagenette"])
def test_lgm_reference_has_the_settings_of_the_public_code(full_parser, data):
    """As the command line reads them, over whatever a dataset's own configuration says."""
    args = ["fit", "-c", f"{CONFIGS}/data/{data}.yaml", "--model.objective=lgm_reference"]
    words, flags = split(args)
    parsed = full_parser(written(words, expand(flags)))
    assert {name: parsed.get(name) for name in PUBLISHED} == PUBLISHED


def test_a_dataset_keeps_its_own_crops_under_lgm_reference(full_parser):
    words, flags = split(["fit", "-c", f"{CONFIGS}/data/digits.yaml", "--model.objective=lgm_reference"])
    reference = full_parser(written(words, expand(flags)))
    words, flags = split(["fit", "-c", f"{CONFIGS}/data/digits.yaml"])
    own = full_parser(written(words, expand(flags)))
    for name in ("area", "flip"):
        assert reference[f"model.views.augmentation.{name}"] == own[f"model.views.augmentation.{name}"]
