import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "synthicl").rglob("*.py"))


def unexplained(path: Path) -> list[int]:
    """Lines of imports inside functions that no comment explains, on the line itself or right above it."""
    text = path.read_text(encoding="utf-8")
    lines = [re.sub(r"# (type|noqa):.*", "", line) for line in text.splitlines()]
    inside = {
        statement.lineno
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in ast.walk(function)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    }
    # The imports that follow an explained one share its reason.
    explained = [number for number in inside if "#" in lines[number - 1] or lines[number - 2].strip().startswith("#")]
    for number in sorted(inside):
        if number - 1 in explained:
            explained.append(number)
    return sorted(inside - set(explained))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_import_inside_a_function_says_why(path):
    assert unexplained(path) == []


def test_what_is_explained(tmp_path):
    path = tmp_path / "x.py"
    lines = ["def f():", "import a", "# b is optional", "import b", "import c", "", "import d  # heavy", "", "import e"]
    path.write_text("\n    ".join(lines), encoding="utf-8")
    assert unexplained(path) == [2, 9]
