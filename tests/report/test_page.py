"""Pages: their content, as it is and as damaged or hostile files make it, and the file that they are written to."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from support import comparison
from support.pages import HOSTILE, Page, copy, make_run, page_of

from evoprune.cli import experiment
from evoprune.cli.compare import command_line
from evoprune.cli.forms import parse
from evoprune.comparison.budget import options_of
from evoprune.comparison.options import plan
from evoprune.errors import InputError
from evoprune.report import comparison as comparisons
from evoprune.report import page, pictures, size
from evoprune.report.blocks import Cell, Chapter, Section, Table, sparsity
from evoprune.report.command import command_of, comparison_command
from evoprune.report.run import wilson
from evoprune.runs import records, sums
from evoprune.runs.config import read_config
from evoprune.runs.evaluations import Evaluations
from evoprune.runs.folder import clear, is_page

SECTIONS = (
    "Search", "Lineage of the winner", "Survivors by layer", "Pixels that the first layer reads", "Confusion of the classes",
    "Final training", "Costs", "Failures", "Settings", "Environment", "Do it again",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run("evolve", tmp_path_factory.mktemp("evolve") / "run")


@pytest.fixture(scope="module")
def shown(run: Path) -> Page:
    return page_of(run)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time."""
    monkeypatch.setattr(size, "picture", lambda name, caption, draw, prefix: pictures.Picture(name, caption))


def result_of(run: Path) -> dict[str, object]:
    result = records.read_json(run / "result.json")
    assert result is not None
    return result


def test_a_run_has_all_sections_and_its_numbers(run: Path, shown: Page) -> None:
    result = result_of(run)
    assert [name for name in SECTIONS if name not in shown.text] == []
    assert "cannot be shown" not in shown.text
    for text in (f"{100 * result['test_accuracy']:.2f} %", f"keeps {result['survivors']:,} of 800", "evolve on digits, mlp"):
        assert text in shown.text
    for name, (kept, size_) in result["layers"].items():
        assert f"{name} {kept:,} {size_:,} {100 * kept / size_:.2f} %" in shown.text


def test_a_page_names_no_other_place_and_has_one_script(shown: Page) -> None:
    assert len(shown.named("script")) == 1
    places = [value for _, attributes in shown.elements for name, value in attributes.items() if name in ("src", "href")]
    assert [place for place in places if not place.startswith(("#", "data:"))] == []
    assert "http://" not in shown.html
    assert "https://" not in shown.html
    (policy,) = (each["content"] for each in shown.named("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [attributes for _, attributes in shown.elements if "style" in attributes]


def test_figures_are_inline_and_their_ids_differ(shown: Page) -> None:
    assert len(shown.named("figure")) >= 9
    assert len([each for each in shown.named("svg") if each.get("role") == "img"]) >= 9
    ids = Counter(attributes["id"] for _, attributes in shown.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', shown.html))
    assert used - set(ids) == set()


def test_an_interval_of_a_part_is_wilsons() -> None:
    low, high = wilson(0.9, 100)  # as in statsmodels' proportion_confint(90, 100, method="wilson")
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["evolve", "combine", "dissipate", "train", "gmp"])
def test_the_command_on_the_page_is_that_of_the_run(
    method: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run if method == "evolve" else make_run(method, tmp_path / "run")
    config = read_config(folder)
    assert config is not None
    _, name, *arguments = command_of(config, str(folder), str(folder)).replace("\\\n", "").split()
    assert name == method
    monkeypatch.setattr(experiment, "_draw_figures", lambda folder, anew: [])
    experiment.run_method(name, [*arguments, "--no-report"], None)
    assert "is finished already" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_nothing_from_a_folder_is_interpreted(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / HOSTILE.replace("/", "∕"))
    config = read_config(folder)
    assert config is not None
    config["settings"]["note"] = config["settings"]["problem"]["data"] = HOSTILE
    sums.write_sealed(folder / "config.json", config)
    result = {**result_of(run), "classes": [f"{HOSTILE}{i}" for i in range(10)], "collapse": HOSTILE, "fitness": HOSTILE}
    sums.replace_files(folder, {"result.json": records.json_bytes(result)})
    rows = Evaluations.read(folder / "evaluations.csv")
    hostile = [(gen, type(e)(**{**vars(e), "status": "failed", "note": HOSTILE, "worker": HOSTILE})) for gen, e in rows.rows]
    rows.rewrite(hostile)
    found = page_of(folder)
    assert "cannot be shown" not in found.text
    assert len(found.named("script")) == 1
    assert [each["src"] for each in found.named("img") if each["src"]] == []
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 20
    assert "{{ 7*7 }}" in found.text


def test_names_in_figures_are_text() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    ax.plot([1, 2], label=HOSTILE.replace("$", ""), gid='"><script>')
    ax.legend()
    ax.set_title("<script>alert(1)</script>", url="javascript:alert(1)")
    found = Page(str(pictures.picture("<b>", "", lambda: figure, "x-").svg))
    assert {tag for tag, _ in found.elements} <= {"svg", "g", "path", "use", "defs", "clippath", "rect", "text", "tspan"}
    assert "javascript" not in found.html
    assert "<script>alert(1)</script>" in found.text
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on") or name == "style"]


def test_large_figures_are_embedded_as_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    monkeypatch.setattr(pictures, "LARGEST", 100)
    found = pictures.picture("name", "", Figure, "x-")
    assert not found.svg
    assert found.image.startswith("data:image/png;base64,")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["result.json", "lineage.csv", "confusion.csv", "generations.csv", "evaluations.csv"])
def test_a_damaged_file_is_named_and_its_numbers_are_not_shown(name: str, run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / "run")
    content = (folder / name).read_text()
    digits = [i for i, letter in enumerate(content) if letter in "123456"]
    place = digits[len(digits) // 2]
    (folder / name).write_text(content[:place] + str(int(content[place]) + 1) + content[place + 1 :])
    found = page_of(folder)
    assert re.search(rf"cannot be shown: [^.]*\b{name.replace('.', '[.]')}", found.text)
    if name == "result.json":
        assert "test accuracy" not in found.text


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("change", [{"layers": None}, {"multiply_adds": None}, {"seconds": 10**400}])
def test_foreign_content_leaves_the_other_sections(change: dict[str, object], run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / "run")
    sums.replace_files(folder, {"result.json": records.json_bytes({**result_of(run), **change})})
    found = page_of(folder)
    assert [name for name in ("Search", "Settings", "Do it again") if name not in found.text] == []
    assert ("cannot be shown" in found.text) == (change.keys() <= {"layers", "multiply_adds"})


@pytest.mark.usefixtures("no_figures")
def test_a_missing_file_leaves_the_other_sections(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / "run")
    for name in ("lineage.csv", "confusion.csv", "history.csv", "environment.json"):
        (folder / name).unlink()
    found = page_of(folder)
    assert f"{100 * result_of(run)['test_accuracy']:.2f} %" in found.text
    assert "Environment" not in [text for text in SECTIONS if text in found.text]


@pytest.mark.usefixtures("no_figures")
def test_an_unfinished_run_has_a_page(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / "run")
    for name in ("result.json", "confusion.csv", "mask.npz", "history.csv", "model.safetensors"):
        (folder / name).unlink()
    found = page_of(folder)
    assert "is not finished: 12 evaluations so far" in found.text


@pytest.mark.usefixtures("no_figures")
def test_several_runs_share_a_page(run: Path, tmp_path: Path) -> None:
    comparison.write(tmp_path, ("dense", "snip", "erk"), seeds=2)
    found = page_of(run, tmp_path)
    assert "2 results" in found.text
    assert len(found.named("article")) == 2
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("no_figures")
def test_a_comparison_has_means_with_intervals_and_its_failures(tmp_path: Path) -> None:
    comparison.write(tmp_path, ("dense", "snip", "random", "magnitude"), seeds=3)
    cells = comparisons.read_cells(tmp_path / "cells.csv")
    own = cells[(cells["method"] == "snip") & (cells["sparsity"] == 0.98) & cells["budget"].isna()]["test_accuracy"]
    half = 4.302653 * own.std(ddof=1) / 3**0.5  # Student's t of two degrees of freedom
    found = page_of(tmp_path)
    assert f"snip 98.0 % {100 * own.mean():.2f} ± {100 * half:.2f} %" in found.text
    assert "random mnist lenet-300-100 99.0 % 1 failed no reason is recorded" in found.text
    assert "fc3 has no survivors" in found.text
    assert found.text.index("Main table") < found.text.index("Equal cost")


@pytest.mark.slow
def test_a_table_that_is_cut_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison.write(tmp_path, ("dense", "dissipate", "snip", "random"), seeds=3)
    monkeypatch.setattr(comparisons, "MOST", 1)
    rows = len(comparisons.read_cells(tmp_path / "cells.csv"))
    text = page_of(tmp_path).text
    assert f"The cells. The first 1 of {rows} rows; the files of the comparison have them all." in text
    assert text.count("The first 1 of") >= 2  # also the pairs


@pytest.mark.parametrize(
    "arguments",
    [
        "--methods random snip --sparsities 0.8 0.9 --seeds 2 --epochs 1 --model mlp --widths 12",
        "--methods kstarts combine dense snip-restart --k 8 --fitness loss --fitness-epochs 1 --budget 3 --first-seed 7",
        "--data digits fashion-mnist --optimizer adam --no-normalize",
    ],
)
def test_the_command_on_the_page_is_that_of_the_comparison(arguments: str) -> None:
    recorded = settings_of(arguments.split())
    words = comparison_command(recorded, "new").replace("\\\n", "").split()
    assert words[:2] == ["evoprune", "compare"]
    assert words[-2:] == ["--out", "new"]
    assert settings_of(words[2:]) == recorded


def test_a_comparison_that_no_command_says_has_none() -> None:
    recorded = settings_of(["--methods", "snip", "--seeds", "2", "--sparsities", "0.8", "0.9"])
    assert comparison_command({**recorded, "cells": recorded["cells"][1:]}, "new") == ""
    assert comparison_command({**recorded, "methods": {"snip": {"k": 4}}}, "new") == ""


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """The content of compare.json after a command."""
    parsed = parse(command_line(), "", arguments, None)
    parts = ({f.name: getattr(part, f.name) for f in fields(part)} for part in (parsed.problem, parsed.recipe))
    planned, cells = plan(parsed.comparison, *parts)
    methods = {cell.base: options_of(planned, cell.base) for cell in cells}
    content = {"settings": planned.settings(), "methods": methods, "cells": [cell.keys for cell in cells]}
    found: dict[str, Any] = json.loads(json.dumps(content, default=asdict))
    return found


@pytest.mark.usefixtures("no_figures")
def test_one_seed_has_no_spread_and_the_page_says_so(tmp_path: Path) -> None:
    comparison.write(tmp_path, ("dense", "snip"), seeds=1)
    text = page_of(tmp_path).text
    assert "no spread is known" in text
    assert "±" not in text.partition("One seed")[0]


def test_a_page_that_is_full_names_the_figures_that_it_leaves_out() -> None:
    from matplotlib.figure import Figure

    budget = size.Budget(600)  # room for two empty figures
    found = [budget.draw(name, "", Figure) for name in ("first", "second", "third")]
    assert [type(block) for block in found] == [pictures.Picture, pictures.Picture, size.Text]
    assert "The figure third is left out, for the page is large already" in found[2].text
    assert "The figure wide cannot be shown" in budget.draw("wide", "", lambda: Figure(figsize=(1, "wide"))).text


def test_figures_of_many_parts_are_embedded_as_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.5, 0.5, "text")
    made = []
    original = pictures._file
    monkeypatch.setattr(pictures, "_file", lambda drawn, kind: made.append(kind) or original(drawn, kind))
    assert pictures.picture("name", "", lambda: figure, "x-").svg
    monkeypatch.setattr(pictures, "MOST_PARTS", len(figure.findobj()) - 1)
    assert pictures.picture("name", "", lambda: figure, "x-").image
    assert made == ["svg", "png"]


def test_long_tables_share_the_room_of_a_page_and_main_tables_stay() -> None:
    def table(count: int, summary: str) -> Table:
        return Table("Numbers.", ["n"], [[Cell("<" * 100)] for _ in range(count)], summary)

    blocks = [table(80, ""), table(400, "folded"), table(800, "folded"), size.Text("text")]
    chapters = [Chapter("", "", "", sections=[Section("", blocks)])]
    assert size.fit(chapters, 10**9) == chapters
    (chapter,) = size.fit(chapters, 1280 * (400 + 45) // 2)  # each letter is escaped by four
    main, short, long, text = chapter.sections[0].blocks
    assert (main, text) == (blocks[0], blocks[3])
    assert [len(each.rows) for each in (short, long)] == [200, 400]
    assert long.caption == "Numbers. The first 400 of 800 rows, for the page is large already."


@pytest.mark.parametrize("value, text", [(0.98, "98.0 %"), (0.9995, "99.95 %"), (0.99999, "99.999 %"), (math.nan, "—")])
def test_a_sparsity_is_not_rounded_to_another(value: float, text: str) -> None:
    assert sparsity(value).text == text


@pytest.mark.slow
def test_the_page_of_a_large_comparison_is_below_2_megabytes(tmp_path: Path) -> None:
    comparison.write(tmp_path)
    assert len(page.render([tmp_path]).encode()) < 2_000_000


@pytest.mark.usefixtures("no_figures")
def test_a_page_replaces_a_page_and_no_other_file(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path / "run")
    path = page.write([folder])
    assert path == folder / "report.html"
    assert is_page(path)
    assert page.write([folder]) == path
    path.write_text("<html>mine</html>")
    with pytest.raises(InputError, match="no page that evoprune wrote"):
        page.write([folder])
    assert path.read_text() == "<html>mine</html>"
    page.write([folder], force=True)
    assert is_page(path)
    clear(folder)
    assert not path.exists()


@pytest.mark.usefixtures("no_figures")
def test_places_that_cannot_be_written_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        page.write([run], tmp_path / "none" / "page.html")
    with pytest.raises(InputError, match="it is a folder"):
        page.write([run], tmp_path)
    with pytest.raises(InputError, match="neither a run nor a comparison"):
        page.render([tmp_path])
    outside = tmp_path / "outside.html"
    (tmp_path / "link.html").symlink_to(outside)
    with pytest.raises(InputError, match="no page"):
        page.write([run], tmp_path / "link.html")
    assert not outside.exists()
