"""The report: sections of tables and figures in one HTML file, the same in Markdown, and the figures as files."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from synthicl.core.files import write_whole
from synthicl.report.table import Table, markdown

LEGIBLE = 72  # CSS pixels for an inch of a figure: letters of 9 points become 9 pixels


class Section(NamedTuple):
    """What the report shows under one title.

    Attributes:
        title: of the section.
        tables: in their order.
        figures: by file name, without suffix.
        commands: the command lines that made what is shown.
        finding: one sentence that says what was found.
    """

    title: str
    tables: Sequence[Table]
    figures: Mapping[str, Figure]
    commands: Sequence[str]
    finding: str = ""


class Picture(NamedTuple):
    """A figure on the page.

    Attributes:
        address: of its pixels.
        text: what is to be seen.
        width: in CSS pixels, below which its letters are too small; a narrow screen scrolls.
    """

    address: str
    text: str
    width: int


def write_report(folder: Path, title: str, sections: Sequence[Section], run: Mapping[str, Any], made_in: Path) -> None:
    """Write figures, report.html and report.md.

    Args:
        folder: where they go.
        title: of the page.
        sections: in their order.
        run: what identifies the run, by name.
        made_in: folder whose grid of images and configuration are shown, if they are there.
    """
    pictures = {}
    for section in sections:
        for name, figure in section.figures.items():
            for suffix in ("png", "svg"):
                content = render(figure, suffix)
                path = folder / "figures" / f"{name}.{suffix}"
                write_whole(path, lambda target, content=content: target.write_bytes(content))  # type: ignore[misc]
                if suffix == "png":
                    width = round(LEGIBLE * figure.get_figwidth())
                    pictures[name] = Picture(data_address(content, "image/png"), text_of(name, figure), width)
    page = report_page(title, sections, pictures, run, made_in)
    write_whole(folder / "report.html", lambda target: target.write_text(page, encoding="utf-8"))
    text = report_text(sections)
    write_whole(folder / "report.md", lambda target: target.write_text(text, encoding="utf-8"))


def text_of(name: str, figure: Figure) -> str:
    """What is to be seen on a figure: its label, or its name where it has none."""
    return str(figure.get_label()) or name


def render(figure: Figure, suffix: str) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script the font lacks is drawn as boxes
        figure.savefig(buffer, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return buffer.getvalue()


def data_address(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no network and no second file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def tie(cell: str) -> str:
    """A cell whose intervals and sums do not break at the end of a line: ``[93.9, 97.3]``, ``0.06 + 0.12``."""
    return re.sub(r"(?<=\d) \+ (?=\d)", "\u00a0+\u00a0", re.sub(r"(?<=\d), (?=[-+\d])", ",\u00a0", cell))


def report_text(sections: Sequence[Section]) -> str:
    """The report in Markdown: tables, the commands that made them, and figures from the folder beside it."""
    parts = []
    for section in sections:
        parts.append(f"## {section.title}")
        if section.finding:
            parts.append(section.finding)
        if section.commands:
            parts.append("```\n" + "\n".join(section.commands) + "\n```")
        parts += [f"**{table.title}**\n\n{markdown(table)}" for table in section.tables]
        parts += [f"![{text_of(name, figure)}](figures/{name}.png)" for name, figure in section.figures.items()]
    return "\n\n".join(parts) + "\n"


def report_page(
    title: str, sections: Sequence[Section], pictures: Mapping[str, Picture], run: Mapping[str, Any], made_in: Path
) -> str:
    """The report, one HTML page that needs no network and no other file; ``pictures`` are by figure name.

    Every word from data is escaped.
    """
    environment = Environment(loader=PackageLoader("synthicl.report"), autoescape=True)
    environment.filters["tie"] = tie
    grid, config = made_in / "grid.png", made_in / "config.yaml"
    return environment.get_template("report.html.jinja").render(
        title=title,
        run=run,
        grid=data_address(grid.read_bytes(), "image/png") if grid.is_file() else None,
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        sections=sections,
        pictures=pictures,
    )
