"""The house is kept: files that one can read at a sitting, and plain English."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import ROOT

LINES = 400

# forms that native readers stumble over, each with its cure
BANNED = {
    r"\borigin\b": "the main process",
    r"\bat hand\b": "available, given, or nothing",
    r"\b(go|goes|going|went) on (with|to|training|from)\b": "continue, resume",
    r"\blikewise\b": "too, also, in the same way",
    r"\bas above\b": "name it",
    r"\bof (its|their) own\b": "its own ..., separate",
    r"\b(is|are|was|were) asked for\b": "requested, or name who asks",
    r"\b(has|have|had) workers (drop|keep|take|do|send)\b": "tell workers to",
    r"\b(of|from|with|by|than|to|at|on|for|about|into|and|or|but) what (is|was|are|were|has|had|the|a|it|they|one)\b": "a noun",
    r"(^|[.:;] )What (?![^.?]*\?)": "a noun",
    r"\b(from|to|of|by|than|with) where\b": "a noun",
}


def code_files() -> list[Path]:
    return sorted(path for folder in ("evoprune", "experiments", "plots") for path in (ROOT / folder).rglob("*.py"))


def prose_files() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts_of_code(source: str) -> Iterator[str]:
    """Comments, docstrings, messages and help: all strings of several words."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def texts_of_prose(source: str) -> Iterator[str]:
    """Paragraphs, without blocks of code and words set as code."""
    text = re.sub(r"`[^`\n]*`", "``", re.sub(r"^```.*?^```", "", source, flags=re.DOTALL | re.MULTILINE))
    yield from re.split(r"\n\s*\n", text)


def banned_forms(texts: Iterator[str]) -> list[str]:
    found = []
    for text in (" ".join(each.split()) for each in texts):
        for form, cure in BANNED.items():
            for match in re.finditer(form, text, re.IGNORECASE):
                found.append(f"...{text[max(0, match.start() - 30) : match.end() + 30]}... (write: {cure})")
    return found


def stiff(path: Path) -> list[str]:
    source = path.read_text()
    return banned_forms(texts_of_code(source) if path.suffix == ".py" else texts_of_prose(source))


def test_no_file_is_longer_than_one_reads_at_a_sitting() -> None:
    files = (path for path in code_files() if path.is_relative_to(ROOT / "evoprune"))
    lengths = {name(path): len(path.read_text().splitlines()) for path in files}
    assert {file: lines for file, lines in lengths.items() if lines > LINES} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The origin of the run.", 1),
        ("It goes on with the rest.", 1),
        ("What survives is trained.", 1),
        ("What is the same problem?", 0),
        ("The masks that survive continue; the original network stays.", 0),
        ("It names what was given.", 0),
    ],
)
def test_banned_forms_are_found(text: str, count: int) -> None:
    assert len(banned_forms(iter([text]))) == count


@pytest.mark.parametrize("path", [*code_files(), *prose_files()], ids=name)
def test_english_is_plain(path: Path) -> None:
    assert stiff(path) == []
