"""The commands of ``evaluate.py``: their parser, and what happens around each of them."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from synthicl.artefact.predict import predict
from synthicl.cli.preflight import ELSEWHERE, FOR_DATASETS, subject_config
from synthicl.core.errors import UserError
from synthicl.studies import STUDIES
from synthicl.studies.publish import publish
from synthicl.studies.results import Results
from synthicl.studies.study import Study
from synthicl.studies.subject import Subject


def asked_for(args: list[str]) -> list[Study]:
    """The study that a command line names; all where it names none, to show which there are."""
    names = STUDIES.names()
    if args and args[0] in [*names, "predict"]:  # what is wrong with another package's is said to who asks for that
        names = [name for name in names if name == args[0]]
    return [STUDIES.get(name) for name in names]


def parser(studies: Iterable[Study]) -> ArgumentParser:
    """The parser of ``evaluate.py``: a command's settings are its function's parameters."""
    main = ArgumentParser(prog="evaluate.py", exit_on_error=False)
    commands = main.add_subcommands()
    for study in studies:
        description = (inspect.getdoc(study.compute) or "").split("\n\n")[0]
        command = ArgumentParser(description=description, exit_on_error=False)
        command.add_argument("subject", help="Folder of a run or a context set, or the name of a dataset.")
        command.add_argument("--output", help="Folder for results and report; the subject's own if left out.")
        for flag, text in (ELSEWHERE | FOR_DATASETS).items():
            whole = flag in {"data.split_seed", "tabicl.n_estimators"}
            command.add_argument(f"--{flag}", help=text, type=int if whole else str)
        command.add_function_arguments(study.compute, skip={"subject", "results"})
        commands.add_subcommand(study.name, command)
    commands.add_subcommand("predict", _predict_parser())
    return main


def _predict_parser() -> ArgumentParser:
    """``predict`` scores nothing: it takes a context set and images, and writes a table."""
    command = ArgumentParser(description="Classify images with a context set alone, into a CSV.", exit_on_error=False)
    command.add_argument("subject", help="Folder of a run or a context set.")
    command.add_argument("images", help="A folder of images, an image, or a text file with one path per line.")
    command.add_argument("--output", help="The CSV; predictions.csv in the current directory if left out.")
    for flag in ("backbone.weights", "tabicl.model_path"):
        command.add_argument(f"--{flag}", help=ELSEWHERE[flag])
    command.add_argument("--batch_size", type=int, default=64, help="Images that are held at once.")
    return command


def run(args: list[str]) -> None:
    """Parse a command line of ``evaluate.py`` and run its command.

    Raises:
        UserError: what it needs is missing.
    """
    studies = asked_for(args)
    parsed = parser(studies).parse_args(with_brackets(args, studies))
    name = parsed["subcommand"]
    settings = parsed[name].as_flat().__dict__
    if name == "predict":
        predict(
            Path(settings["subject"]),
            Path(settings["images"]),
            settings["output"] and Path(settings["output"]),
            settings["backbone.weights"],
            settings["tabicl.model_path"],
            settings["batch_size"],
            best_device(),
        )
        return
    given = {flag: settings.pop(flag) for flag in ELSEWHERE | FOR_DATASETS}
    what, output = settings.pop("subject"), settings.pop("output")
    command_line = shlex.join(["python", "evaluate.py", *args])
    evaluate(STUDIES.get(name), what, given, settings, output and Path(output), made_by=command_line)


def best_device() -> str:
    """The GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def with_brackets(args: list[str], studies: Iterable[Study]) -> list[str]:
    """Lists as the parser wants them: ``--probes=tabicl,linear`` or ``--probes tabicl,linear`` with brackets."""
    lists = {
        f"--{name}"
        for study in studies
        for name, parameter in inspect.signature(study.compute).parameters.items()
        if "Sequence[" in str(parameter.annotation)
    }
    written = []
    arguments = iter(args)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in lists:
            value = value if equals else next(arguments, "")
            written.append(f"{flag}={value}" if value.startswith("[") else f"{flag}=[{value}]")
        else:
            written.append(argument)
    return written


def evaluate(
    study: Study,
    what: str | Path,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    output: Path | None = None,
    device: torch.device | str | None = None,
    made_by: str = "",
) -> Results:
    """Run a study on a subject, save what it found, and publish it.

    Args:
        study: what is asked.
        what: folder of a run or a context set, or the name of a dataset.
        given: settings of the subject as dotted names, see `subject_config`.
        settings: the study's own.
        output: folder for results and report; None for the subject's own.
        device: None for the GPU if there is one.
        made_by: the command line, for the report.

    Returns:
        All results in the folder, those of earlier studies included.
    """
    home, config = subject_config(str(what), given)
    subject = Subject(home, config, device or best_device(), output, made_by)
    results = Results.load(subject.output, subject.fingerprint)
    if not results.rows:
        Results.set_aside(subject.output)
    study.compute(subject, results, **settings)
    if not results.of(study.name).rows:
        raise UserError(
            f"{study.name}: there is nothing to score. Probes that look at images need contexts that have some."
        )
    publish(subject, results, study)
    return results
