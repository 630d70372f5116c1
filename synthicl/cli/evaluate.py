"""The studies and the tools, such as ``predict``: their parser, and what happens around each."""

from __future__ import annotations

import inspect
import shlex
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from synthicl.artefact.predict import predict
from synthicl.artefact.upload import publish as publish_set
from synthicl.cli.command_line import TOOLS, agree, split
from synthicl.cli.command_line import settings as read
from synthicl.core.errors import UserError
from synthicl.core.settings import ELSEWHERE, FOR_DATASETS, HOST, LEVEL, PORT, of_subject
from synthicl.studies import STUDIES
from synthicl.studies.publish import publish
from synthicl.studies.results import Results
from synthicl.studies.study import Study
from synthicl.studies.subject import Subject

STUDENT = {
    "views": "How many views TabICL labels for the student.",
    "steps": "Steps of the student's training, 64 views each.",
    "seed": "Of the student's views, weights and order.",
}


def asked_for(args: list[str]) -> list[Study]:
    """The study that a command line names; all where it names none, to show which there are."""
    names = STUDIES.names()
    if args and args[0] in {*names, *TOOLS}:  # what is wrong with another package's is said to who asks for that
        names = [name for name in names if name == args[0]]
    return [STUDIES.get(name) for name in names]


def parser(studies: Iterable[Study]) -> ArgumentParser:
    """The parser: a command's settings are its function's parameters."""
    main = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    commands = main.add_subcommands()
    for study in studies:
        description = (inspect.getdoc(study.compute) or "").split("\n\n")[0]
        command = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
        command.add_argument("subject", help="Folder of a run or a context set, or the name of a dataset.")
        command.add_argument("--output", help="Folder for results and report; the subject's own if left out.")
        for flag, text in (ELSEWHERE | FOR_DATASETS).items():
            whole = flag in {"data.split_seed", "tabicl.n_estimators"}
            command.add_argument(f"--{flag}", help=text, type=int if whole else str)
        command.add_function_arguments(study.compute, skip={"subject", "results"})
        commands.add_subcommand(study.name, command)
    commands.add_subcommand("predict", _predict_parser())
    commands.add_subcommand("demo", _demo_parser())
    commands.add_subcommand("publish", _publish_parser())
    commands.add_subcommand("export", _export_parser())
    return main


def _tool_parser(name: str) -> ArgumentParser:
    """What the tools have in common: a context set, and where the files lie that it was made with."""
    command = ArgumentParser(description=TOOLS[name], exit_on_error=False, allow_abbrev=False)
    subject = "Folder of a run or a context set, or its id on the Hugging Face Hub."
    command.add_argument("subject", help=subject)
    for flag in ("backbone.weights", "tabicl.model_path"):
        command.add_argument(f"--{flag}", help=ELSEWHERE[flag])
    return command


def _predict_parser() -> ArgumentParser:
    """``predict`` scores nothing: it takes a context set and images, and writes a table."""
    command = _tool_parser("predict")
    command.add_argument("images", help="A folder of images, an image, or a text file with one path per line.")
    command.add_argument("--output", help="The CSV; predictions.csv in the current directory if left out.")
    command.add_argument("--batch_size", type=int, default=64, help="Images that are held at once.")
    text = f"Adds a set of classes that holds the true one this often; {LEVEL} if =SHARE is left out."
    command.add_argument("--coverage", type=float, metavar="SHARE", help=text)
    text = f"Marks what is less like the training images than this share of val; {LEVEL} if =SHARE is left out."
    command.add_argument("--reject", type=float, metavar="SHARE", help=text)
    return command


def _demo_parser() -> ArgumentParser:
    """``demo`` asks of images what ``predict`` does, one at a time, in a browser."""
    command = _tool_parser("demo")
    text = "Address to serve at: this machine alone, unless told otherwise; 0.0.0.0 lets others use the page."
    command.add_argument("--host", default=HOST, help=text)
    command.add_argument("--port", type=int, default=PORT, help="Port to serve at.")
    text = "How often the set of classes holds the true one."
    command.add_argument("--coverage", type=float, default=LEVEL, help=text)
    command.add_argument("--reject", type=float, default=LEVEL, help="Share of val that gets no warning.")
    return command


def _publish_parser() -> ArgumentParser:
    """``publish`` sends a context set to the Hugging Face Hub, if told to."""
    command = ArgumentParser(description=TOOLS["publish"], exit_on_error=False, allow_abbrev=False)
    command.add_argument("subject", help="Folder of a run or a context set.")
    command.add_argument("repo", help="Where it goes: user/name.")
    command.add_argument("--upload", type=bool, default=False, help="Send it; otherwise nothing is sent.")
    command.add_argument("--public", type=bool, default=False, help="Let everybody read it; otherwise it is private.")
    return command


def _export_parser() -> ArgumentParser:
    """``export`` takes a context set and writes what was asked for; each thing to write is a flag."""
    command = _tool_parser("export")
    text = "As ONNX, images in and probabilities out; classifier.onnx in the current directory if =FILE is left out."
    command.add_argument("--onnx", metavar="FILE", help=text)
    text = "A small network trained on what the classifier says of views of the synthetic images; student.onnx."
    command.add_argument("--student", metavar="FILE", help=text)
    for name, text in STUDENT.items():
        command.add_argument(f"--student_{name}", type=int, help=text)
    return command


def run(args: list[str]) -> None:
    """Parse a command line, see `synthicl.cli.command_line.written`, and run its command.

    Raises:
        UserError: what it needs is missing.
    """
    studies = asked_for(args)
    parsed = parser(studies).parse_args(with_brackets(args, studies))
    name = parsed["subcommand"]
    settings = parsed[name].as_flat().__dict__
    agree(read(split(args)[1]), settings.get, [flag for flag in ELSEWHERE | FOR_DATASETS if flag in settings])
    if name == "publish":
        publish_set(settings["subject"], settings["repo"], settings["upload"], settings["public"])
        return
    if name == "predict":
        predict(
            settings["subject"],
            Path(settings["images"]),
            settings["output"] and Path(settings["output"]),
            settings["backbone.weights"],
            settings["tabicl.model_path"],
            settings["batch_size"],
            best_device(),
            settings["coverage"],
            settings["reject"],
        )
        return
    if name == "demo":
        # Loads gradio, which is optional.
        from synthicl.artefact.demo import demo

        demo(
            settings["subject"],
            settings["host"],
            settings["port"],
            settings["backbone.weights"],
            settings["tabicl.model_path"],
            best_device(),
            settings["coverage"],
            settings["reject"],
        )
        return
    if name == "export":
        # Loads tabicl with it, which a study may not need.
        from synthicl.artefact.onnx_file import export_onnx
        from synthicl.artefact.student import StudentSettings, export_student

        what, files = settings["subject"], (settings["backbone.weights"], settings["tabicl.model_path"])
        onnx, student = settings["onnx"], settings["student"]  # None where a file is not asked for, "" without a name
        asked = {name: settings[f"student_{name}"] for name in STUDENT if settings[f"student_{name}"] is not None}
        training = StudentSettings(**asked)
        if onnx is not None:
            export_onnx(what, Path(onnx) if onnx else None, *files)
        if student is not None:
            export_student(what, Path(student) if student else None, training, *files, best_device())
        return
    given = {flag: settings.pop(flag) for flag in ELSEWHERE | FOR_DATASETS}
    what, output = settings.pop("subject"), settings.pop("output")
    made_by = shlex.join([program(), *args])
    evaluate(STUDIES.get(name), what, given, settings, output and Path(output), made_by=made_by)


def program() -> str:
    """The console command as it is typed where this process runs."""
    installed = Path(sysconfig.get_path("scripts"), "synthicl")
    here = Path.cwd()
    return str(installed.relative_to(here)) if installed.is_relative_to(here) else installed.name


def best_device() -> str:
    """The GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def with_brackets(args: list[str], studies: Iterable[Study]) -> list[str]:
    """Lists as the parser wants them: ``--probes=tabicl,linear`` with brackets."""
    lists = {
        f"--{name}"
        for study in studies
        for name, parameter in inspect.signature(study.compute).parameters.items()
        if "Sequence[" in str(parameter.annotation)
    }
    written = []
    for argument in args:
        flag, _, value = argument.partition("=")
        written.append(f"{flag}=[{value}]" if flag in lists and not value.startswith("[") else argument)
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
        given: settings of the subject as dotted names, see `synthicl.core.settings.of_subject`.
        settings: the study's own.
        output: folder for results and report; None for the subject's own.
        device: None for the GPU if there is one.
        made_by: the command line, for the report.

    Returns:
        All results in the folder, those of earlier studies included.
    """
    home, settings_of_subject = of_subject(str(what), given)
    subject = Subject(home, settings_of_subject, device or best_device(), output, made_by)
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
