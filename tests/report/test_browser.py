"""Pages in a browser without a window: no errors, no sideways scrolling at desktop and phone width, tables that sort."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import comparison
from support.pages import HOSTILE, copy, make_run
from support.processes import ROOT

from evoprune.baselines.registry import BASELINES
from evoprune.report import page
from evoprune.runs import records, sums
from evoprune.search.registry import METHODS, method_names
from evoprune.training.registry import SCHEDULES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning"),
]
SIZES = {"desktop": (1280, 900, "light"), "phone": (390, 844, "dark")}
# The pages of other baselines, and of other schedules of masks, have the same sections and figures as those of these.
ALIKE = {*BASELINES, *SCHEDULES} - {*METHODS, "erk", "dense", "lottery-ticket", "gmp", "granet"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def evolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run("evolve", tmp_path_factory.mktemp("evolve") / "run")
    page.write([folder])  # most of the time of these tests passes in drawing figures
    return folder


def opened(browser: Any, path: Path, size: str) -> tuple[Any, list[str]]:
    """The page in a new window of a size, and what goes wrong in it."""
    width, height, scheme = SIZES[size]
    window = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    wrong: list[str] = []
    window.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    window.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(f"request: {request.url}"))
    window.goto(path.absolute().as_uri())
    return window, wrong


def assert_fine(browser: Any, path: Path) -> None:
    assert path.stat().st_size < 2_000_000
    for size, (width, _, _) in SIZES.items():
        window, wrong = opened(browser, path, size)
        assert wrong == [], size
        assert window.evaluate("document.documentElement.scrollWidth") <= width, size
        assert window.locator("script").count() == 1
        assert window.locator("h1").inner_text()
        drawn = window.evaluate("[...document.querySelectorAll('.figure')].map(f => f.getBoundingClientRect().width)")
        assert drawn
        assert min(drawn) > 100, size
        window.close()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in method_names()]
)
def test_the_page_of_every_method_opens(browser: Any, name: str, evolution: Path, tmp_path: Path) -> None:
    path = evolution / page.NAME if name == "evolve" else page.write([make_run(name, tmp_path / "run")])
    assert "cannot be shown" not in path.read_text()
    assert_fine(browser, path)


@pytest.mark.slow
def test_the_page_of_a_comparison_opens(browser: Any, tmp_path: Path) -> None:
    comparison.write(tmp_path, ("dense", "dissipate", "snip", "erk"), seeds=3)
    assert_fine(browser, page.write([tmp_path]))


def test_a_page_of_several_opens(browser: Any, evolution: Path, tmp_path: Path) -> None:
    comparison.write(tmp_path, ("dense", "snip"), seeds=2)
    assert_fine(browser, page.write([evolution, tmp_path], tmp_path / "all.html"))


@pytest.mark.parametrize("key", ["click", "Enter", " "])
def test_tables_sort_by_click_and_key(browser: Any, evolution: Path, key: str) -> None:
    window, wrong = opened(browser, evolution / page.NAME, "desktop")
    table = window.locator("table", has_text="survivors").filter(has_text="density").first
    head = table.locator("th", has_text="survivors")

    def press() -> list[int]:
        button = head.get_by_role("button")
        if key == "click":
            button.click()
        else:
            button.press(key)
        return [int(text.replace(",", "")) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]

    assert head.get_attribute("aria-sort") == "none"
    first = press()
    assert first == sorted(first)
    assert head.get_attribute("aria-sort") == "ascending"
    assert press() == first[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    table.locator("th", has_text="layer").get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert table.locator("tbody tr td:first-child").all_inner_texts() == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert wrong == []


def test_hostile_files_are_shown_as_text(browser: Any, evolution: Path, tmp_path: Path) -> None:
    folder = copy(evolution, tmp_path / HOSTILE.replace("/", "∕"))
    result = records.read_json(folder / "result.json") or {}
    more = {"classes": [f"{HOSTILE}{i}" for i in range(10)], "collapse": HOSTILE, "fitness": HOSTILE, "method": HOSTILE}
    sums.replace_files(folder, {"result.json": records.json_bytes({**result, **more})})
    path = page.write([folder], tmp_path / "page.html")
    assert_fine(browser, path)
    window, wrong = opened(browser, path, "phone")
    window.wait_for_timeout(300)
    assert wrong == []
    assert HOSTILE in window.locator("body").inner_text()


def test_figures_are_readable_on_light_and_dark_pages(browser: Any, evolution: Path) -> None:
    path = evolution / page.NAME
    for size, is_dark in (("desktop", False), ("phone", True)):
        window, _ = opened(browser, path, size)
        colors = [
            window.evaluate(f"getComputedStyle(document.querySelector('{place}')).{name}")
            for place, name in (("body", "backgroundColor"), (".sentence", "color"), (".sheet", "backgroundColor"))
        ]
        body, text, sheet = (sum(map(int, color[4:-1].split(", "))) / 765 for color in colors)
        assert (body < 0.2, text > 0.8) == (is_dark, is_dark)
        assert sheet > 0.85  # figures are drawn in dark ink


@pytest.mark.slow
def test_a_run_is_watched_until_ctrl_c(browser: Any, tmp_path: Path) -> None:
    folder = make_run("erk", tmp_path / "run")
    command = [sys.executable, "-m", "evoprune", "report", str(folder), "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=120) as answer:
            assert answer.status == 200
        window = browser.new_page()
        wrong: list[str] = []
        window.on("console", lambda message: wrong.append(message.text))
        window.goto(address, timeout=120_000)
        assert "erk keeps" in window.locator("h1").inner_text()
        (folder / "result.json").unlink()
        deadline = time.monotonic() + 120
        while "is not finished" not in window.locator("h1").inner_text():
            assert time.monotonic() < deadline
            window.wait_for_timeout(200)
        assert wrong == []
        window.close()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (folder / "report.html").exists()
