"""The report: sections of tables and figures in one HTML file, the same in Markdown, and the figures as files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from synthicl.core.files import write_whole
from synthicl.report.table import Table, markdown


class Section(NamedTuple):
    """What the report shows under one title.

    Attributes:
        title: of the section.
        tables: in their order.
        figures: by file name, without suffix.
        commands: the command lines that made what is shown.
    """

    title: str
    tables: Sequence[Table]
    figures: Mapping[str, Figure]
    commands: Sequence[str]


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
                    pictures[name] = data_address(content, "image/png")
    page = report_page(title, sections, pictures, run, made_in)
    write_whole(folder / "report.html", lambda target: target.write_text(page, encoding="utf-8"))
    text = report_text(sections)
    write_whole(folder / "report.md", lambda target: target.write_text(text, encoding="utf-8"))


def render(figure: Figure, suffix: str) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return buffer.getvalue()


def data_address(content: bytes, kind: str) -> str:
    """Bytes as an address that needs no network and no second file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def report_text(sections: Sequence[Section]) -> str:
    """The report in Markdown: tables, the commands that made them, and figures from the folder beside it."""
    parts = []
    for section in sections:
        parts.append(f"## {section.title}")
        if section.commands:
            parts.append("```\n" + "\n".join(section.commands) + "\n```")
        parts += [f"**{table.title}**\n\n{markdown(table)}" for table in section.tables]
        parts += [f"![{name}](figures/{name}.png)" for name in section.figures]
    return "\n\n".join(parts) + "\n"


def report_page(
    title: str, sections: Sequence[Section], pictures: Mapping[str, str], run: Mapping[str, Any], made_in: Path
) -> str:
    """The report, one HTML page that needs no network and no other file; ``pictures`` are addresses by figure name.

    Every word from data is escaped.
    """
    environment = Environment(loader=PackageLoader("synthicl.report"), autoescape=True)
    grid, config = made_in / "grid.png", made_in / "config.yaml"
    return environment.get_template("report.html.jinja").render(
        title=title,
        run=run,
        grid=data_address(grid.read_bytes(), "image/png") if grid.is_file() else None,
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        sections=sections,
        pictures=pictures,
    )
