"""The manual tells the truth: the blocks of a page run one after another, in one process, and print what the page says."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.processes import ROOT, finish, start

DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}

# A block, the comment before it, and the language and the text of the block.
BLOCK = re.compile(r"^(?:% (?P<comment>[^\n]+)\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "not run: "
OUTPUT = "output"
COMMANDS = ("evoprune ", "python ")
NUMBER = re.compile(r"\d+\.\d+")
DEADLINE = 900
TOLERANCE = 0.1  # accuracies differ a little between versions and processors

SCRIPT = Path(sys.executable).with_name("evoprune")
SHELL = f"""set -euo pipefail
python() {{ "{sys.executable}" "$@"; }}
evoprune() {{ {f'"{SCRIPT}"' if SCRIPT.exists() else "python -m evoprune"} "$@"; }}
"""
HEADER = """import subprocess
"""
MARK = "--- output of block {} ---"


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and the output that the page says it has."""

    language: str
    text: str
    comment: str
    output: str = ""

    @property
    def runs(self) -> bool:
        """Whether the tests run the block."""
        if self.comment.startswith(NOT_RUN):
            return False
        return self.language == "python" or (self.language == "bash" and self.text.startswith(COMMANDS))

    def script(self, number: int) -> str:
        """Returns Python that runs the block, and says before its output which block it is."""
        mark = f"print({MARK.format(number)!r}, flush=True)\n"
        if self.language == "python":
            return mark + self.text
        return mark + f"subprocess.run(['bash', '-c', {SHELL + self.text!r}], check=True)\n"


def blocks_of(text: str) -> list[Block]:
    """Returns the blocks of a page; a block of output belongs to the block before it."""
    blocks: list[Block] = []
    for match in BLOCK.finditer(text):
        comment = match["comment"] or ""
        if comment == OUTPUT:
            before = blocks.pop()
            blocks.append(Block(before.language, before.text, before.comment, match["text"]))
        else:
            blocks.append(Block(match["language"], match["text"], comment))
    return blocks


def numbers(text: str) -> list[float]:
    """Returns the decimal fractions in a text."""
    return [float(number) for number in NUMBER.findall(text)]


RUN = {name: [block for block in blocks_of(text) if block.runs] for name, text in PAGES.items()}
# The pages that take longest.
GUIDES = ("baselines", "compare", "export", "fitness", "logging", "methods", "network", "operators", "report")
LONG = {f"guide/{name}.md" for name in GUIDES}
LONG |= {"run-folder.md", "workers.md"}
SHOWN = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name, blocks in RUN.items() if blocks]


@pytest.mark.process
@pytest.mark.parametrize("name", SHOWN)
def test_blocks_run_and_print_what_the_page_says(name: str, tmp_path: Path) -> None:
    blocks = RUN[name]
    script = tmp_path / "page.py"
    script.write_text(HEADER + "\n".join(block.script(i) for i, block in enumerate(blocks)), encoding="utf-8")
    code, printed = finish(start([str(script)], tmp_path), DEADLINE)
    assert code == 0, printed
    for i, block in enumerate(blocks):
        found = printed.split(MARK.format(i))[1].split(MARK.format(i + 1))[0].strip()
        if block.output:
            assert NUMBER.sub("#", found) == NUMBER.sub("#", block.output.strip()), found
            assert numbers(found) == pytest.approx(numbers(block.output), rel=TOLERANCE), found


@pytest.mark.parametrize("name", PAGES)
def test_every_code_block_runs_or_says_why_not(name: str) -> None:
    for block in blocks_of(PAGES[name]):
        if block.language in ("python", "bash") and not block.runs:
            assert block.comment.removeprefix(NOT_RUN) != block.comment, f"add '% {NOT_RUN}REASON' above:\n{block.text}"


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"^([\w/-]+)$", PAGES["index.md"], re.MULTILINE)
    assert sorted([*listed, "index"]) == sorted(name.removesuffix(".md") for name in PAGES)


def test_the_manual_has_blocks_that_run_and_outputs() -> None:
    assert sum(map(len, RUN.values())) >= 20
    assert sum(bool(block.output) for blocks in RUN.values() for block in blocks) >= 3
