"""Configuration of the manual: ``sphinx-build -W -b html docs docs/_build``."""

import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import evoprune

project = "evoprune"
author = "the evoprune authors"
copyright = author
release = version = evoprune.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"evoprune {version}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# scikit-learn gives these methods to estimators, and their docstrings refer to pages of its manual
REQUESTS = ("set_fit_request", "set_predict_request", "set_score_request")
autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": ", ".join(REQUESTS)}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# several dataclasses have fields of one name, such as sparsity, and a docstring that reads like a type refers to all of them
suppress_warnings = ["ref.python"]
# these are optional extras, and the reference is built without them
autodoc_mock_imports = [name for name in ("dask", "distributed", "tensorboard") if importlib.util.find_spec(name) is None]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

HERE = Path(__file__).parent
LITERAL = re.compile(r"(``.+?``)")
MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\((experiments/[^)]+\.md)\)")


def escape_bars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escapes the bars of absolute values, which reStructuredText takes for substitutions."""
    text = LITERAL.split("\n".join(lines))
    text[::2] = [part.replace("|", r"\|") for part in text[::2]]
    lines[:] = "".join(text).split("\n")


def name_tables(app: object, path: Path, parent: str, content: list[str]) -> None:
    """Names the Markdown tables that RESULTS.md links to, since the manual does not contain them."""
    content[0] = MARKDOWN_LINK.sub(r"\1 (`\2`)", content[0])


def table_of_names() -> str:
    """Returns the table of the names of ``evoprune``, each with a link to the module that it is defined in."""
    rows = []
    for name in sorted(evoprune.__all__, key=str.lower):
        thing = getattr(evoprune, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            place, summary = f"{thing.__module__}.{thing.__qualname__}", inspect.getdoc(thing) or ""
            rows.append(f"   * - :py:obj:`ep.{name} <{place}>`\n     - {summary.partition(chr(10))[0]}")
    return "\n".join([".. list-table::", "", *rows, ""]).replace("|", r"\|")


def page(package: str, inner: list[pkgutil.ModuleInfo]) -> str:
    """Returns the page of a package: its own docstring, and a section for each of its modules."""
    parts = [package, "=" * len(package), "", f".. automodule:: {package}"]
    if package == evoprune.__name__:
        parts.append("   :no-members:")  # the table has them
    parts += ["", ".. toctree::", "   :titlesonly:", "", *(f"   {module.name}" for module in inner if module.ispkg), ""]
    for module in inner:
        if not module.ispkg:
            parts += [module.name, "-" * len(module.name), "", f".. automodule:: {module.name}", ""]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """Returns the pages of all packages by name."""
    packages: dict[str, list[pkgutil.ModuleInfo]] = {evoprune.__name__: []}
    for module in pkgutil.walk_packages(evoprune.__path__, f"{evoprune.__name__}."):
        parent, _, name = module.name.rpartition(".")
        if not name.startswith("_"):
            packages[parent].append(module)
            if module.ispkg:
                packages[module.name] = []
    return {package: page(package, inner) for package, inner in packages.items()}


def write_reference() -> None:
    """Writes the reference; a page that is as it was is left alone, so it is not built again."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    texts = {"names.inc": table_of_names(), **{f"{package}.rst": text for package, text in pages().items()}}
    for path in folder.iterdir():
        if path.is_file() and path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Registers the changes to docstrings, which run before those of napoleon; writes the reference."""
    write_reference()
    app.connect("autodoc-process-docstring", escape_bars, priority=100)  # type: ignore[attr-defined]
    app.connect("include-read", name_tables)  # type: ignore[attr-defined]
