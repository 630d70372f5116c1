"""From results to what people look at: tables to the terminal, figures, the report, and the cards."""

from __future__ import annotations

from synthicl.artefact.card import card
from synthicl.artefact.context_set import BEST
from synthicl.core.files import write_whole
from synthicl.report.page import Section, write_report
from synthicl.report.table import markdown, print_tables
from synthicl.studies import STUDIES
from synthicl.studies.compare.show import score_tables
from synthicl.studies.results import Results
from synthicl.studies.study import Study
from synthicl.studies.subject import Subject


def publish(subject: Subject, results: Results, study: Study) -> None:
    """Print what a study found, and write figures, the report and the cards anew from all results.

    Args:
        subject: what was evaluated; the files go to its `Subject.output`.
        results: of all studies so far.
        study: the one that has just run; it need not be registered.
    """
    present = list(dict.fromkeys(row.command for row in results.rows.values()))  # in the order in which they ran
    print_tables(study.tables(results.of(study.name)))
    # Rows of a study that is no longer installed stay in results.json and are not shown.
    known = {name: STUDIES.get(name) for name in present if name in STUDIES.names()} | {study.name: study}
    sections = [section_of(known[name], results.of(name)) for name in present if name in known]
    row = next(iter(results.rows.values()))
    title = f"synthicl: {row.run.get('dataset', subject.folder.name)}"
    write_report(subject.output, title, sections, row.run, subject.folder)
    if "compare" in present and subject.elsewhere is None:  # the card is the context set's, and stays with it
        write_cards(subject, results.of("compare"))
    print(f"Tables, figures, report.html and report.md: {subject.output}", flush=True)


def section_of(study: Study, results: Results) -> Section:
    """What a study shows of its results."""
    figures = {f"{study.name}-{name}": figure for name, figure in study.figures(results).items()}
    commands = sorted({row.made_by for row in results.rows.values() if row.made_by})
    return Section(study.title, study.tables(results), figures, commands)


def write_cards(subject: Subject, compared: Results) -> None:
    """Write the card of each context set, with the scores that ``compare`` found."""
    scores = "".join(f"## {table.title}\n\n{markdown(table)}\n\n" for table in score_tables(compared))
    for checkpoint, context_set in subject.context_sets.items():
        text = card(context_set, scores)
        path = subject.folder / (BEST if checkpoint == BEST else "") / "README.md"
        write_whole(path, lambda target, text=text: target.write_text(text, encoding="utf-8"))  # type: ignore[misc]
