"""The command lines: ``train.py`` (Lightning CLI: fit, validate, test) and what every command does with errors."""

from __future__ import annotations

import errno
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from synthicl import preflight
from synthicl.errors import UserError
from synthicl.files import disk_error

MOVED = ("data.root", "backbone.weights", "tabicl.model_path")  # what may lie elsewhere when a run is scored again
DESCRIPTION = "Score a finished run beside random, centroid, class-mean and all real context, and print tables."


def train(args: list[str] | None = None) -> int:
    """Run ``train.py``.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _train(arguments))


def _train(args: list[str]) -> None:
    if args and not args[0].startswith("-"):
        args = preflight.expand(args)
        if not {"-h", "--help", "--print_config"} & set(args):
            preflight.check(preflight.settings(args))
    from synthicl.training import run

    run(args)


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
        # Lightning's word for settings that do not fit together; the class cannot be imported before torch.
        if type(error).__name__ != "MisconfigurationException":
            raise
        return _say(f"error: {' '.join(str(error).split())}", 2)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return _say("Interrupted. A run goes on from its last checkpoint with CKPT=PATH.", 130)
        if error.code == 143:
            return _say("Terminated. A run goes on from its last checkpoint with CKPT=PATH.", 143)
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
    """Run ``evaluate.py``.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    return guarded(lambda: _evaluate(args))


def _evaluate(args: list[str] | None) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="evaluate.py", exit_on_error=False)
    comparison = ArgumentParser(description=DESCRIPTION, exit_on_error=False)
    comparison.add_argument("run", type=str, help="Folder of the run, for example outputs/digits/latest.")
    for flag in MOVED:
        comparison.add_argument(f"--{flag}", type=str, help="Where it lies now, if not where it lay during the run.")
    parser.add_subcommands().add_subcommand("compare", comparison)
    settings = parser.parse_args(args)["compare"]
    compare(Path(settings["run"]), {flag: settings[flag] for flag in MOVED if settings[flag] is not None})


def compare(run: Path, moved: Mapping[str, str]) -> None:
    """Score the context sets of a finished run beside random, centroid, class-mean and all real context.

    Args:
        run: folder of the run.
        moved: files of the run that lie elsewhere now, by their flag (`MOVED`).
    """
    config = preflight.run_config(run) | dict(moved)
    preflight.check(config)
    import torch

    from synthicl.evaluation.run import evaluate_run

    evaluate_run(run, config, "cuda" if torch.cuda.is_available() else "cpu")
