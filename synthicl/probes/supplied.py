"""Learners of other packages: which package each needs, and where its weights are named. Imports nothing heavy.

Nothing is downloaded: the weights come under licences of their own (docs/usage.md), so who wants them fetches them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from synthicl.core.errors import UserError
from synthicl.core.files import FILE, kind_of

PACKAGES = {"comb": "tabcomb", "tabdpt": "tabdpt", "tabpfn": "tabpfn"}
"""On PyPI, by the name of the probe, which is that of the module too."""


def variable_of(name: str) -> str:
    """The environment variable that names a learner's checkpoint."""
    return f"SYNTHICL_{name.upper()}_MODEL"


def supplied(name: str) -> Path:
    """The checkpoint of a learner whose package is installed.

    Args:
        name: a key of `PACKAGES`.

    Raises:
        UserError: the package or the checkpoint is missing.
    """
    if find_spec(name) is None:
        package = PACKAGES[name]
        raise UserError(
            f"--probes={name}: the package {package} is not installed. Install it with: pip install {package}"
        )
    path = os.environ.get(variable_of(name), "")
    if (kind := kind_of(Path(path))) != FILE:
        found = f"{path}: is {kind}" if path else "it is not set"
        raise UserError(
            f"--probes={name}: {variable_of(name)}: {found}. Set it to the path of a {name} classifier checkpoint."
        )
    return Path(path)
