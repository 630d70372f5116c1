"""The report: one file, every word from data escaped."""

import re

import numpy as np
import pytest

from synthicl.report.page import tie
from synthicl.studies.compare import COMPARE
from synthicl.studies.publish import publish
from synthicl.studies.results import Results, Row
from synthicl.studies.study import Study
from synthicl.studies.subject import Subject

NASTY = "<script>alert(1)</script> & Größe"


def found(command="compare"):
    """Results of a study, two rows."""
    results = Results(labels={"test": np.zeros(20, dtype=np.int64), "val": np.zeros(20, dtype=np.int64)})
    for context in ("random", NASTY):
        row = Row(
            *(command, context, 0, 0, 1, "tabicl", "raw", "test", "", 0.5, 1.0, 10, 20, 0.1, 0.2, "context"),
            run={"dataset": NASTY},
            made_by=f"synthicl compare '{NASTY}'",
        )
        results.add(row, np.arange(20) % 2)
    return results


@pytest.fixture
def published(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(f"name: {NASTY}\n", encoding="utf-8")
    publish(Subject(tmp_path, {}), found(), COMPARE)
    return tmp_path, (tmp_path / "report.html").read_text(encoding="utf-8"), capsys.readouterr().out


def test_words_from_data_are_escaped_everywhere(published):
    _, page, _ = published
    assert "<script" not in page
    # title and heading, what identifies the run, a row of each of two tables, the command line, the configuration
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; Größe") == 7


def test_the_page_needs_no_other_file_and_no_network(published):
    _, page, _ = published
    assert re.findall(r'(?:src|href)="(.{5})', page) == ["data:"]
    assert "http" not in page


def test_figures_lie_beside_it_as_png_and_svg(published):
    folder, _, _ = published
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        "compare-contexts.png",
        "compare-contexts.svg",
    ]
    assert (folder / "figures/compare-contexts.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / "figures/compare-contexts.svg").read_bytes()


def test_accuracies_are_printed_and_the_report_with_the_rest_is_named(published):
    folder, page, out = published
    assert "Accuracy on test in %, 20 queries" in " ".join(out.split())
    assert "Seconds to fit" in page
    assert "Seconds to fit" not in out
    assert f"All tables and figures: {folder / 'report.html'}" in out


def test_the_report_in_markdown_has_the_same_tables_and_commands(published):
    folder, _, _ = published
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "**Accuracy on test in %, 20 queries, 95 % intervals**" in text
    assert f"synthicl compare '{NASTY}'" in text
    assert re.search(r"!\[A line for each of .*\]\(figures/compare-contexts\.png\)", text)


def test_a_study_may_have_neither_tables_nor_figures(tmp_path):
    bare = Study("counting", "How many", lambda subject, results: None)
    publish(Subject(tmp_path, {}), found("counting"), bare)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text == f"## How many\n\n```\nsynthicl compare '{NASTY}'\n```\n"
    assert "<h2>How many</h2>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "figures").exists()


def test_rows_of_a_study_that_is_not_installed_are_passed_over(tmp_path):
    results = found()
    for row in found("gone").rows.values():
        results.add(row, np.arange(20) % 2)
    publish(Subject(tmp_path, {}), results, COMPARE)
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("## ") == 1


def test_a_finding_stands_first_everywhere_and_test_is_named_as_scored(tmp_path, capsys):
    study = Study("counting", "How many", lambda subject, results: None, finding=lambda results: "Two <of> them.")
    publish(Subject(tmp_path, {}), found("counting"), study)
    out = capsys.readouterr().out
    assert out.startswith("Two <of> them.\n") and "\ntest is scored: choose nothing by it.\n" in out
    assert '<h2>How many</h2>\n<p class="finding">Two &lt;of&gt; them.</p>' in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.md").read_text().startswith("## How many\n\nTwo <of> them.\n")


def test_figures_scroll_before_their_letters_are_too_small(published):
    _, page, _ = published
    assert 'alt="A line for each of' in page
    assert re.search(r'style="min-width: 353px"', page)  # 4.9 inches


@pytest.mark.parametrize(
    ("cell", "tied"),
    [
        ("95.9 [93.9, 97.3], 5 draws", "95.9 [93.9,\u00a097.3], 5 draws"),
        ("0.06 + 0.12", "0.06\u00a0+\u00a00.12"),
        ("test + 2.0 noise", "test + 2.0 noise"),
    ],
)
def test_intervals_and_sums_of_a_cell_do_not_break(cell, tied):
    assert tie(cell) == tied
