"""From results to what people look at: tables to the terminal, figures, the report, and the cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthicl.artefact.card import card
from synthicl.artefact.context_set import BEST
from synthicl.core.files import write_whole
from synthicl.core.words import words, words_of_objective
from synthicl.report.page import Section, write_report
from synthicl.report.table import markdown, print_tables
from synthicl.studies import STUDIES
from synthicl.studies.compare.show import score_tables
from synthicl.studies.privacy.show import sentence
from synthicl.studies.results import Results
from synthicl.studies.study import Study
from synthicl.studies.subject import Subject

TEST_IS_SCORED = "test is scored: choose nothing by it."


def publish(subject: Subject, results: Results, study: Study) -> None:
    """Print what a study found, and write figures, the report and the cards anew from all results.

    Args:
        subject: what was evaluated; the files go to its `Subject.output`.
        results: of all studies so far.
        study: the one that has just run; it need not be registered.
    """
    present = list(dict.fromkeys(row.command for row in results.rows.values()))  # in the order in which they ran
    # Rows of a study that is no longer installed stay in results.json and are not shown.
    known = {name: STUDIES.get(name) for name in present if name in STUDIES.names()} | {study.name: study}
    sections = {name: section_of(known[name], results.of(name)) for name in present if name in known}
    own = sections[study.name]
    if own.finding:
        print(f"{own.finding}\n", flush=True)
    print_tables(study.printed(results.of(study.name)) if study.printed else own.tables)
    if results.select(command=study.name, split="test"):
        print(TEST_IS_SCORED, flush=True)
    row = next(iter(results.rows.values()))
    title = f"synthicl: {row.run.get('dataset', subject.folder.name)}"
    write_report(subject.output, title, list(sections.values()), identity(row.run), subject.folder)
    if "compare" in present and subject.elsewhere is None:  # the card is the context set's, and stays with it
        write_cards(subject, results)
    print(f"All tables and figures: {subject.output / 'report.html'} (and report.md)", flush=True)


def identity(run: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run, in words; the objective's settings stand in config.yaml."""
    return {words(name): words_of_objective(value) if name == "objective" else value for name, value in run.items()}


def section_of(study: Study, results: Results) -> Section:
    """What a study shows of its results."""
    figures = {f"{study.name}-{name}": figure for name, figure in study.figures(results).items()}
    commands = list(dict.fromkeys(row.made_by for row in results.rows.values() if row.made_by))
    return Section(study.title, study.tables(results), figures, commands, study.finding(results))


def write_cards(subject: Subject, results: Results) -> None:
    """Write the card of each context set, with the scores that ``compare`` found and the sentence of ``privacy``."""
    tables = score_tables(results.of("compare"))
    scores = "".join(f"## {table.title}\n\n{markdown(table)}\n\n" for table in tables)
    for checkpoint, context_set in subject.context_sets.items():
        privacy = sentence(results.of("privacy"), context_set.metadata.get("checkpoint", checkpoint))
        text = card(context_set, scores, privacy)
        path = subject.folder / (BEST if checkpoint == BEST else "") / "README.md"
        write_whole(path, lambda target, text=text: target.write_text(text, encoding="utf-8"))  # type: ignore[misc]
