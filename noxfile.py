"""The checks: ``nox`` runs those of ``.ci/run``, ``nox -s lint`` one of them, ``nox -l`` lists all.

Sessions use the environment that nox runs in, which ``pip install -c constraints.txt -e '.[dev]'`` makes.
"""

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "package", "tests", "process"]
nox.options.stop_on_first_error = True  # so that a failure is the end of the output

ROOT = Path(__file__).parent
BIN = Path(sys.executable).parent
COVERED = 88  # percent of lines and branches that unit tests reach, at least


def run(session: nox.Session, tool: str, *arguments: str) -> None:
    """Runs a tool of this environment, whether or not the environment is activated.

    Python keeps what it compiled, even where that is switched off: tests start hundreds of processes.
    """
    session.run(str(BIN / tool), *arguments, external=True, env={"PYTHONDONTWRITEBYTECODE": ""})


@nox.session
def lint(session: nox.Session) -> None:
    """Style, complexity, and the direction of imports."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    run(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests, with the coverage."""
    coverage = ("--cov", "--cov-report=term:skip-covered", f"--cov-fail-under={COVERED}")
    run(session, "pytest", *coverage, *session.posargs)


@nox.session
def process(session: nox.Session) -> None:
    """Tests that start processes: scripts, workers, pools."""
    run(session, "pytest", "-m", "process and not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The long tests."""
    run(session, "pytest", "-m", "slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The manual, in docs/_build."""
    run(session, "sphinx-build", "-W", "-b", "html", "docs", "docs/_build")


@nox.session
def package(session: nox.Session) -> None:
    """Source distribution and wheel, and what a clean environment makes of the wheel."""
    folder = Path(session.create_tmp()).resolve()
    run(session, "python", "-m", "build", "--outdir", str(folder / "dist"))
    files = sorted(str(path) for path in (folder / "dist").iterdir())
    run(session, "twine", "check", "--strict", *files)
    run(session, "python", "-m", "venv", "--clear", str(folder / "clean"))
    clean = folder / "clean" / "bin"
    (wheel,) = (name for name in files if name.endswith(".whl"))
    session.run(str(clean / "pip"), "install", "--quiet", "-c", "constraints.txt", wheel, external=True)
    with session.chdir(folder):
        command = ("kstarts", "--k", "2", "--epochs", "2", "--fitness-epochs", "1", "--out", "run", "--force")
        session.run(str(clean / "evoprune"), *command, external=True)


@nox.session(python=["3.11", "3.12", "3.13"], venv_backend="virtualenv")
def versions(session: nox.Session) -> None:
    """Unit tests on each version of Python that is installed."""
    session.install("-c", "constraints.txt", "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmark of engines, on a few points; with arguments, on those."""
    few = ("--models", "conv-2", "--widths", "4", "--sparsities", "0.9", "0.98", "--ks", "1", "4", "--steps", "8")
    run(session, "python", "experiments/benchmark_engines.py", *(session.posargs or few))
