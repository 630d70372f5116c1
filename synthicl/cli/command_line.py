"""A command line as it is read before torch is loaded, and written out for the full parser.

Both read the same by construction. Here a command line becomes words and ``--flag=value``, in this one form it is
handed on, and what was read early is compared with what the full parser makes of it (`agree`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from synthicl.cli.foreign import check_foreign
from synthicl.core.configuration import (
    CONFIGS,
    config_names,
    default_files,
    find_config,
    flattened,
    read_config,
    read_settings,
    with_included,
)
from synthicl.core.errors import UserError
from synthicl.core.files import FOLDER, kind_of
from synthicl.core.registry import plugins
from synthicl.core.settings import HOST, LEVEL, PORT, extended_run, of_run, paths

EARLY: dict[str, Any] = {
    "data.name": None,
    "data.root": "data",
    "backbone.name": None,
    "backbone.weights": None,
    "tabicl.checkpoint": "mini",
    "tabicl.model_path": None,
    "ckpt_path": None,
    "extend": None,
    "data.more": None,
}
"""What is read of a training before torch is loaded, with the defaults of the full parser."""

TOOLS = {
    "predict": "Classify images with a context set alone, into a CSV.",
    "demo": f"Serve a page at http://{HOST}:{PORT} that shows what a context set says of an image.",
    "export": "Write the classifier of a run as one file: --onnx; a small network that learnt from it: --student.",
    "publish": "List what of a run would go to the Hugging Face Hub; send it with --upload=true.",
}
"""Commands that score nothing."""

_JUDGES = {"--coverage": str(LEVEL), "--reject": str(LEVEL)}
ALONE = {"export": {"--onnx": "", "--student": ""}, "predict": _JUDGES, "demo": _JUDGES}
"""Flags of a command that may stand without a value, and which one that is; they take another as ``--flag=VALUE``."""

_PATHS = {"data.root", "backbone.weights", "tabicl.model_path", "ckpt_path", "extend"}


class Flag(NamedTuple):
    """``name=value``, or ``name`` alone where it asks for help (value None)."""

    name: str
    value: str | None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def split(args: Iterable[str]) -> tuple[list[str], list[Flag]]:
    """The words and the flags of a command line; ``--flag value`` is ``--flag=value``, ``-c`` is ``--config``.

    Raises:
        UserError: a flag without a value, or in a short form that does not exist.
    """
    words: list[str] = []
    flags: list[Flag] = []
    arguments = iter(args)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
        elif name in {"-h", "--help"} or (not equals and name.endswith((".help", "--print_config"))):
            flags.append(Flag(argument, None))
        elif argument in (alone := ALONE.get(words[0] if words else "", {})):
            flags.append(Flag(argument, alone[argument]))
        elif not name.startswith("--") and name != "-c":
            raise UserError(f"{argument}: unknown. Flags are written as --name=value.")
        else:
            if not equals:
                value = next(arguments, "-")
                if value.startswith("-") and not re.match(r"-\.?\d", value):
                    raise UserError(f"{name}: a value is missing. Write {name}=VALUE.")
            flags.append(Flag("--config" if name == "-c" else name, value))
    return words, flags


def written(words: list[str], flags: Iterable[Flag]) -> list[str]:
    """A command line in the one form that the full parser is given."""
    return [*words, *map(str, flags)]


def asks_for_help(flags: Iterable[Flag]) -> bool:
    """Whether something is to be shown rather than run."""
    return any(flag.value is None or flag.name == "--print_config" for flag in flags)


def expand(flags: Iterable[Flag]) -> list[Flag]:
    """Write out short forms.

    ``--model.objective=lgm`` is short for ``-c objective/lgm`` in its place; the file names the class; an
    objective of another package is short for its class. What a configuration file's ``include`` names, relative to
    `CONFIGS`, comes before the file itself. What resumes from a checkpoint (``--ckpt_path``) starts from the
    configuration of its run, which is checked to be data unless the user names that file as well; flags win over it.
    So does what extends a run (``--extend``), see `_extension`.

    Raises:
        UserError: there is no such objective, file or checkpoint, or a setting that is read early is abbreviated or
            given as a group.
    """
    expanded: list[Flag] = []
    for flag in flags:
        name, value = flag
        known = next((key for key in EARLY if value is not None and _is_part(name.removeprefix("--"), key)), None)
        if known:
            raise UserError(f"{name}: not a setting. Write its name in full, such as --{known}=VALUE.")
        if name == "--include":
            raise UserError(f"{flag}: only a configuration file includes another. Name the file with -c.")
        if name == "--config":
            expanded += [Flag(name, str(file)) for file in with_included(find_config(value or ""))]
        elif name == "--model.objective" and value is not None and "." not in value:  # which the path of a class has
            expanded += _named_objective(value)
        else:
            expanded.append(flag)
    checkpoint = settings(expanded).get("ckpt_path")
    if checkpoint:
        is_file, config = _beside(checkpoint)
        if not is_file:
            raise UserError(
                f"--ckpt_path={checkpoint}: no such file. Checkpoints lie in outputs/*/version_*/checkpoints/."
            )
        if not config.is_file():
            raise UserError(f"--ckpt_path={checkpoint}: {config} is missing, which says what the run was made with.")
        return [*_configuration(config, expanded), *expanded]
    extend = next((flag.value for flag in reversed(expanded) if flag.name == "--extend"), None)
    return expanded if extend in (None, "null") else _extension(extend or "", expanded)


def _configuration(config: Path, expanded: list[Flag]) -> list[Flag]:
    """The configuration of a run as a flag, checked to be data; none where the user names the file as well."""
    if any(Path(flag.value or "").resolve() == config for flag in expanded if flag.name == "--config"):
        return []
    check_foreign(config)
    return [Flag("--config", str(config))]


def _extension(run: str, expanded: list[Flag]) -> list[Flag]:
    """Write out ``--extend=RUN --data.root=FOLDER``: the configuration of RUN, and FOLDER beside RUN's own images.

    ``--data.more`` names all further folders, and then ``--data.root`` is where RUN's own images lie. Unless they are
    given, there are half the steps, because the frozen images hold the others in place.

    Raises:
        UserError: RUN is not a finished run, or there are no new images, or those of another dataset.
    """
    folder = extended_run(run)
    config, own = folder / "config.yaml", of_run(folder).data
    written = [Flag(*flag) if flag.name != "--extend" else Flag("--extend", str(folder)) for flag in expanded]
    asked = settings(written).get("data.name")
    if asked not in (None, own.name):
        raise UserError(
            f"--data.name={asked}: --extend puts a folder of new classes beside the dataset of {run}, {own.name}. "
            "Leave it out."
        )
    if not any(flag.name == "--data.more" for flag in written):
        roots = [flag.value for flag in written if flag.name == "--data.root"]
        if not roots:
            raise UserError(f"--extend={run}: the new images are missing. Name their folder: --data.root=FOLDER.")
        if kind_of(Path(roots[-1] or "")) != FOLDER:
            raise UserError(
                f"--data.root={(roots[-1] or '')[:100]}: not a folder. Name the one that holds the new classes."
            )
        more = [*map(str, own.more), roots[-1]]
        written = [flag for flag in written if flag.name != "--data.root"]
        written.append(Flag("--data.more", json.dumps(more)))
    configuration = _configuration(config, expanded)
    return [*configuration, *_shorter(settings(configuration)), *written]


def _shorter(before: dict[str, Any]) -> list[Flag]:
    """Half the steps, and levels that are added twice as often; what extends an extended run has its schedule."""
    if before.get("extend"):
        return []
    schedule = {name: before.get(name) for name in ("trainer.max_steps", "model.images.grow_every")}
    return [
        Flag(f"--{name}", str((steps + 1) // 2))
        for name, steps in schedule.items()
        if isinstance(steps, int) and steps > 0  # what else stands there is the full parser's to refuse
    ]


def _beside(checkpoint: str) -> tuple[bool, Path]:
    """Whether a checkpoint is a file, and the configuration of its run.

    Raises:
        UserError: the path cannot be one.
    """
    try:
        return Path(checkpoint).is_file(), Path(checkpoint).resolve().parent.parent / "config.yaml"
    except (OSError, RuntimeError, ValueError) as error:  # too long, a circle of links, a null byte
        raise UserError(f"--ckpt_path={checkpoint[:100]}: cannot be a file ({error}). Name another.") from error


def _named_objective(name: str) -> list[Flag]:
    """What ``--model.objective=name`` is short for.

    Raises:
        UserError: there is no such objective, or two.
    """
    ours, theirs = config_names("objective"), [plugin.name for plugin in plugins("synthicl.objectives")]
    if name in theirs:
        if name in ours:
            raise UserError(
                f"--model.objective={name}: is in {CONFIGS / 'objective'} and in another package. Rename one."
            )
        # torch is imported here, because the module of another package's objective needs it anyway.
        from synthicl.objectives import OBJECTIVES

        found = OBJECTIVES.get(name)
        return [Flag("--model.objective", f"{found.__module__}.{found.__qualname__}")]
    if name not in ours:
        known = ", ".join(sorted({*ours, *theirs}))
        raise UserError(f"--model.objective={name}: unknown objective. Choose one of: {known}.")
    return [Flag("--config", str(file)) for file in with_included(CONFIGS / "objective" / f"{name}.yaml")]


def settings(flags: Iterable[Flag]) -> dict[str, Any]:
    """Settings of an expanded command line as dotted names: of its configuration files and flags, later ones win.

    Raises:
        UserError: a configuration file is missing, is not YAML, or gives a group of settings in another form.
    """
    found: dict[str, Any] = {}
    for name, value in flags:
        if name == "--config":
            file = Path(value or "")
            tree = read_config(file)
            said = flattened(tree)
            groups = [key for key in said if any(_is_part(key, full) for full in EARLY)]
            if groups or "config" in {str(key).partition(".")[0] for key in tree}:
                group = next(iter(groups), "config")
                raise UserError(f"-c {file}: {group}: not a setting. Write names in full, each on a line of its own.")
            found |= said
        else:
            found[name.removeprefix("--")] = None if value == "null" else value
    found.pop("include", None)
    return found


def with_defaults(flags: Iterable[Flag]) -> dict[str, Any]:
    """Settings of an expanded training, over those that every run starts from."""
    return EARLY | read_settings(default_files()) | settings(flags)


def agree(read: Mapping[str, Any], parsed: Callable[[str], Any], names: Iterable[str]) -> None:
    """Check that the full parser reads what was read early.

    Args:
        read: settings as dotted names.
        parsed: name -> what the full parser has.
        names: what is compared.

    Raises:
        UserError: it does not; the line names the setting.
    """
    for name in names:
        early, late = (_plain(name, value) for value in (read.get(name), parsed(name)))
        if early != late:
            raise UserError(f"--{name}: read as {early!r} at first and as {late!r} then. Write it as --{name}=VALUE.")


def _plain(name: str, value: Any) -> str | None:
    """A value as it is compared."""
    if value is None:
        return None
    if name == "data.more":
        folders = [str(folder) for folder in paths(value)]
        return str(folders) if folders else None
    return str(Path(value)) if name in _PATHS else str(value)


def _is_part(name: str, full: str) -> bool:
    """Whether a name is the beginning of another: its group, or an abbreviation."""
    return full.startswith(name) and full != name
