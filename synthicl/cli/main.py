"""The command ``synthicl``, ``train.py`` and ``evaluate.py``, and what all do with errors."""

from __future__ import annotations

import ast
import errno
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from synthicl.cli import command_line, preflight
from synthicl.core.errors import UserError
from synthicl.core.files import disk_error
from synthicl.core.registry import plugins

TRAINING = {
    "fit": "Distil a dataset: synthicl fit -c data/digits.",
    "validate": "Score the synthetic images of a checkpoint on val.",
    "test": "Score them on test.",
}
PREDICT = {"predict": "Classify images with a context set alone, into a CSV."}


def main(args: list[str] | None = None) -> int:
    """Run ``synthicl``: a training as ``train.py`` does, a study or ``predict`` as ``evaluate.py`` does.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _main(arguments))


def _main(args: list[str]) -> None:
    evaluations = studies() | PREDICT
    command = args[0] if args else "--help"
    if command in {"-h", "--help"}:
        print(usage(TRAINING | evaluations))
    elif command in TRAINING:
        _train(args)
    elif command in evaluations:
        _evaluate(args)
    else:
        raise UserError(f"{command}: unknown command. Choose one of: {', '.join(TRAINING | evaluations)}.")


def studies() -> dict[str, str]:
    """The studies by name with a line about each; nothing of them is imported, as that would load torch."""
    found = {}
    for room in sorted((Path(__file__).parents[1] / "studies").glob("*/__init__.py")):
        about = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))) or ""
        line = about.partition("\n")[0].rpartition("``: ")[2]
        found[room.parent.name.replace("_", "-")] = line[:1].upper() + line[1:]
    return found | {plugin.name: f"Of {plugin.value}." for plugin in plugins("synthicl.studies")}


def usage(commands: Mapping[str, str]) -> str:
    """What ``synthicl --help`` shows."""
    lines = "\n".join(f"  {name:12} {text}" for name, text in commands.items())
    return f"usage: synthicl COMMAND ...\n\n{lines}\n\nsynthicl COMMAND --help shows the settings of a command."


def train(args: list[str] | None = None) -> int:
    """Run ``train.py``, see `main`."""
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _train(arguments))


def _train(args: list[str]) -> None:
    words, flags = command_line.split(args)
    if words:
        flags = command_line.expand(flags)
        if not command_line.asks_for_help(flags):
            preflight.check_training(command_line.with_defaults(flags))
    # torch is loaded here, after what can be said without it.
    from synthicl.cli.fit import run

    run(command_line.written(words, flags))


def guarded(command: Callable[[], object]) -> int:
    """Run a command; a mistake of the user's becomes one line on stderr and exit code 2, an interruption 130 or 143.

    Checkpoints are written whole at fixed steps and never while an error is handled, so the last one stays good.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        command()
    except UserError as error:
        # A process that reads images hands over its whole traceback; its last line is the message.
        return _say(f"error: {str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].strip()}", 2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _say(f"error: {disk_error(error.filename or 'a file of this run', error)}", 2)
    except ArgumentError as error:
        return _say(f"error: {' '.join(str(error).split())} (--help shows every setting)", 2)
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except Exception as error:
        if isinstance(error, RuntimeError) and re.search(r"/gloo/|\bNCCL\b", str(error)):
            return _say("error: another process of this run was lost. A run resumes with CKPT=PATH, on any devices.", 1)
        # Lightning's word for settings that do not fit together; the class cannot be imported before torch.
        if type(error).__name__ != "MisconfigurationException":
            raise
        return _say(f"error: {' '.join(str(error).split())}", 2)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return _say("Interrupted. A run resumes from its last checkpoint with CKPT=PATH.", 130)
        if error.code == 143:
            return _say("Terminated. A run resumes from its last checkpoint with CKPT=PATH.", 143)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _say(line: str, code: int) -> int:
    print(f"\n{line}", file=sys.stderr, flush=True)
    return code


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(143)


def evaluate(args: list[str] | None = None) -> int:
    """Run ``evaluate.py``, see `main`."""
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _evaluate(arguments))


def _evaluate(args: list[str]) -> None:
    words, flags = command_line.split(args)
    if not command_line.asks_for_help(flags):
        preflight.check_evaluation(words, command_line.settings(flags))
    # torch is loaded here, after what can be said without it.
    from synthicl.cli.evaluate import run

    run(command_line.written(words, flags))
