"""From results to what people look at: tables to the terminal, figures, the card, and a report in one HTML file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from synthicl.artefact.card import card
from synthicl.artefact.context_set import BEST
from synthicl.core.files import write_whole
from synthicl.report.table import Table, markdown, print_tables
from synthicl.studies import STUDIES
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject


class Shown(NamedTuple):
    """A section as the page shows it: figures by name as addresses, and the command lines that made the rows."""

    title: str
    tables: list[Table]
    figures: dict[str, str]
    commands: list[str]


def publish(subject: Subject, results: Results, command: str) -> None:
    """Print what a command found, and write figures, the report and the cards anew from all results.

    Args:
        subject: what was evaluated; the files go to its `Subject.output`.
        results: of all commands so far.
        command: the one that has just run.
    """
    folder = subject.output
    present = list(dict.fromkeys(row.command for row in results.rows.values()))  # in the order in which they ran
    print_tables(STUDIES.get(command).tables(results.of(command)))
    shown = []
    for name in present:
        section, part = STUDIES.get(name), results.of(name)
        pictures = {}
        for title, figure in section.figures(part).items():
            file = f"{name}-{title}"
            for suffix in ("png", "svg"):
                content = render(figure, suffix)
                path = folder / "figures" / f"{file}.{suffix}"
                write_whole(path, lambda target, content=content: target.write_bytes(content))  # type: ignore[misc]
            pictures[file] = data_address(render(figure, "png"), "image/png")
        commands = sorted({row.made_by for row in part.rows.values() if row.made_by})
        shown.append(Shown(section.title, section.tables(part), pictures, commands))
    page = report_page(subject.folder, results, shown)
    write_whole(folder / "report.html", lambda target: target.write_text(page, encoding="utf-8"))
    text = report_text(shown)
    write_whole(folder / "report.md", lambda target: target.write_text(text, encoding="utf-8"))
    if "compare" in present and subject.elsewhere is None:  # the card is the context set's, and stays with it
        for checkpoint, context_set in subject.context_sets.items():
            text = card(context_set, results.of("compare"))
            path = subject.folder / (BEST if checkpoint == BEST else "") / "README.md"
            write_whole(path, lambda target, text=text: target.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    print(f"Tables, figures, report.html and report.md: {folder}", flush=True)


def render(figure: Figure, suffix: str) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return buffer.getvalue()


def data_address(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no network and no second file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def report_text(sections: list[Shown]) -> str:
    """The report in Markdown: tables, the commands that made them, and figures from the folder beside it."""
    parts = []
    for section in sections:
        parts.append(f"## {section.title}")
        if section.commands:
            parts.append("```\n" + "\n".join(section.commands) + "\n```")
        parts += [f"**{table.title}**\n\n{markdown(table)}" for table in section.tables]
        parts += [f"![{name}](figures/{name}.png)" for name in section.figures]
    return "\n\n".join(parts) + "\n"


def report_page(folder: Path, results: Results, sections: list[Shown]) -> str:
    """The report, one HTML page that needs no network and no other file.

    Every word from data is escaped.
    """
    environment = Environment(loader=PackageLoader("synthicl.report"), autoescape=True)
    grid, config = folder / "grid.png", folder / "config.yaml"
    row = next(iter(results.rows.values()))
    return environment.get_template("report.html.jinja").render(
        title=f"synthicl: {row.run.get('dataset', folder.name)}",
        run=row.run,
        grid=data_address(grid.read_bytes(), "image/png") if grid.is_file() else None,
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        sections=sections,
    )
