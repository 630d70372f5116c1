"""What lies beside a checkpoint is data: a published run that is resumed or scored runs no code of its own.

A run's ``config.yaml`` names classes, and the full parser imports what it names. Only those are let through that are
this package's, of its registered plug-ins, of ``torch.optim``, or Lightning's own callbacks; every other place holds
plain values. Whoever trusts a run that needs more names its file with ``-c``: then it is the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from synthicl.core.configuration import read_as_data
from synthicl.core.errors import UserError
from synthicl.core.registry import plugins

_PACKAGE = Path(__file__).parents[1]
_GROUPS = {"trainer", "model", "data", "backbone", "tabicl"}
_PLAIN = {"seed_everything", "output_dir", "random_draws", "include", "ckpt_path", "weights_only", "extend"}
_FIXED: dict[str, tuple[Any, ...]] = {
    "weights_only": (True,),
    "include": (None,),
    "ckpt_path": (None,),
    "trainer.logger": (None, True),
    "trainer.plugins": (None,),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.profiler": (None, "simple", "advanced"),
    "trainer.default_root_dir": (None,),
    "trainer.model_registry": (None,),
}
"""Settings that could name a class or a place to write to, and what they may say here."""

_CALLBACK_NAMES = {"monitor"}  # val/tabicl_accuracy looks like a path, and is none


def check_foreign(file: Path) -> None:
    """Check that a run's configuration is data, before anything that it names is imported.

    Raises:
        UserError: it is not; the line names the setting.
    """
    tree = read_as_data(file)
    for name, value in tree.items():
        if name not in _GROUPS | _PLAIN or (name in _GROUPS) != isinstance(value, dict):
            _refuse(file, str(name), value)
    for name, allowed in _FIXED.items():
        group, _, key = name.rpartition(".")
        place = tree.get(group, {}) if group else tree
        if key in place and place[key] not in allowed:
            _refuse(file, name, place[key])
    if not re.fullmatch(r"\w+", str(tree.get("trainer", {}).get("accelerator", "auto"))):
        _refuse(file, "trainer.accelerator", tree["trainer"]["accelerator"])
    classes = {"model.objective": _is_objective, "model.optimizer": _is_optimizer, "trainer.callbacks": _is_callback}
    for group in _GROUPS & tree.keys():
        for key, value in tree[group].items():
            name = f"{group}.{key}"
            if not _is_name(key):  # callbacks+ adds to callbacks
                _refuse(file, group, key)
            if name not in classes:
                _check_plain(file, name, value)
            elif value is not None:
                several = isinstance(value, list) and name == "trainer.callbacks"
                for item in value if several else [value]:
                    _check_class(file, name, item, classes[name])


def _check_plain(file: Path, name: str, value: Any) -> None:
    """Check a value that is no class: texts, numbers, and lists and groups of them."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not _is_name(key) or key in {"class_path", "dict_kwargs"}:
                _refuse(file, name, key)
            _check_plain(file, f"{name}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(file, name, item)
    elif name.startswith("model.") and isinstance(value, str) and not re.fullmatch(r"\w+", value):
        _refuse(file, name, value)  # the path of a file would be read as settings


def _check_class(file: Path, name: str, value: Any, allowed: Callable[[str], bool]) -> None:
    """Check what is to be made: a class that is let through, and what it is given."""
    if not isinstance(value, dict) or not value.keys() <= {"class_path", "init_args"}:
        _refuse(file, name, value)
    if not isinstance(value.get("class_path"), str) or not allowed(value["class_path"]):
        _refuse(file, name, value.get("class_path"))
    given = value.get("init_args") or {}
    if not isinstance(given, dict):
        _refuse(file, name, given)
    for key, item in given.items():
        _check_argument(file, f"{name}.{key}", key, item, value["class_path"], allowed)


def _check_argument(file: Path, name: str, key: Any, value: Any, owner: str, allowed: Callable[[str], bool]) -> None:
    """Check an argument of a class; a text could be the path of a function, or of a place to write to."""
    if not _is_name(key):
        _refuse(file, name, key)
    if isinstance(value, dict):
        if value.keys() & {"class_path", "init_args", "dict_kwargs"}:
            _check_class(file, name, value, allowed)
        else:
            for inner, item in value.items():
                _check_argument(file, f"{name}.{inner}", inner, item, owner, allowed)
    elif isinstance(value, list):
        for item in value:
            _check_argument(file, name, key, item, owner, allowed)
    elif isinstance(value, str):
        is_weights = key == "checkpoints" and owner.startswith("synthicl.objectives.")  # files that are read as weights
        if key == "dirpath":
            if not _lies_in(value, file.parent):
                _refuse(file, name, value)
        elif not is_weights and key not in _CALLBACK_NAMES and not re.fullmatch(r"[\w {}=:+-]*", value):
            _refuse(file, name, value)


def _is_name(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z]\w*", key) is not None


def _lies_in(path: str, folder: Path) -> bool:
    """Whether a path is whole, and in a folder."""
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder.resolve())


def _is_ours(path: str) -> bool:
    """Whether the path of a class leads into a module of this package, told from its files: nothing is imported."""
    module, _, name = path.rpartition(".")
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    is_module = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
    return bool(re.fullmatch(r"synthicl(\.[a-z]\w*)*\.[A-Z]\w*", path)) and is_module and name.isidentifier()


def _is_registered(path: str, group: str) -> bool:
    """Whether the path of a class is that of an installed plug-in, or a shorter one through its packages."""
    module, _, name = path.rpartition(".")
    return any(
        name == plugin.attr and f"{plugin.module}.".startswith(f"{module}.") for plugin in plugins(group) if module
    )


def _is_objective(path: str) -> bool:
    return _is_ours(path) or _is_registered(path, "synthicl.objectives")


def _is_optimizer(path: str) -> bool:
    return re.fullmatch(r"torch\.optim\.[A-Z]\w*", path) is not None


def _is_callback(path: str) -> bool:
    return _is_ours(path) or re.fullmatch(r"lightning\.pytorch\.callbacks\.[A-Z]\w*", path) is not None


def _refuse(file: Path, name: str, value: Any) -> NoReturn:
    said = str(value) if isinstance(value, str | int | float | None) else type(value).__name__
    raise UserError(
        f"{file}: {name}: {said[:100]!r} is not taken from a file beside a checkpoint, where it could run code or "
        f"write elsewhere. If you trust this run, name the file yourself: -c {file}"
    )
