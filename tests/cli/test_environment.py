"""What surrounds a run: terminals, settings of matplotlib, the working folder, and how it is started and interrupted."""

import io
import os
import pickle
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from support.processes import ROOT, finish, python, python_anew, start, wait_for

import evoprune as ep
from evoprune.comparison.cells import Comparison
from evoprune.figures import runs as plot
from evoprune.figures.of_run import layers
from evoprune.runs import records, sums
from evoprune.search.evolution.state import State
from evoprune.search.execution import Execution
from evoprune.system.importing import MISSING_GUARD

SCRIPTS = sorted(path for folder in ("experiments", "plots") for path in (ROOT / folder).glob("*.py"))
SMALL = ("experiments/kstarts.py", "--k", 2, "--epochs", 1, "--fitness-epochs", 1, "--model", "mlp")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "run"
    problem = ep.Problem(model="mlp", data="digits", recipe=ep.Recipe(epochs=1))
    ep.k_starts(problem, k=2, sparsity=0.9, fitness_epochs=1, out=folder)
    return folder


def under(environment: dict[str, str], *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=everything, cwd=folder, capture_output=True, text=True, timeout=120, errors="replace")


# Terminals


@pytest.mark.sampled(1)
@pytest.mark.process
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_help_is_printed_whatever_the_encoding(encoding: str) -> None:
    """The help names Erdős, whom neither knows."""
    done = under({"PYTHONIOENCODING": encoding}, "experiments/kstarts.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_help_that_any_terminal_prints(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    terminal.flush()
    assert b"usage" in terminal.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.sampled(2)
@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("{script} --help | head -1", 0),
        ("{script} --help >&-", 0),
        ("{run} <&- >&- 2>&-", 0),
        ("{run} | head -1", 0),
        ("PYTHONIOENCODING=ascii LC_ALL=C {run}-Ő", 0),
    ],
)
def test_streams_that_are_closed_or_know_no_such_letter(tmp_path: Path, command: str, code: int) -> None:
    script = f"{sys.executable} {ROOT / SMALL[0]}"
    line = command.format(script=script, run=f"{script} {' '.join(map(str, SMALL[1:]))} --out {tmp_path / 'run'}")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, errors="replace", timeout=120, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    for sign in ("Traceback", "Exception ignored", "Broken pipe"):
        assert sign not in done.stderr
    if "run" in command and "|" not in command:
        assert list(tmp_path.glob("run*/result.json"))


# Figures


MATPLOTLIBRC = {
    "usetex": "text.usetex: True\n",
    "style": "font.family: nonexistent\nfigure.dpi: 30\nsavefig.format: svg\naxes.facecolor: red\nlines.linewidth: 9\n",
    "back end": "backend: nonsense\n",
    "no settings": "this is no setting\naxes.facecolor: nonsense\n",
    "no text": "\xff\xfe\x00\n",
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "unknown back end": {"MPLBACKEND": "nonsense"},
    "window": {"MPLBACKEND": "TkAgg"},
    "no home": {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    "no configuration": {"MPLCONFIGDIR": "/dev/null"},
    **{name: {"MATPLOTLIBRC": "{folder}"} for name in MATPLOTLIBRC},
}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("no home", "no text") else pytest.mark.slow) for n in ENVIRONMENTS]
)
def test_figures_do_not_depend_on_the_users_settings(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC.get(name, ""), "latin-1")
    (tmp_path / "elsewhere").mkdir()
    environment = {key: value.format(folder=tmp_path) for key, value in ENVIRONMENTS[name].items()}
    done = under(environment, ROOT / "plots" / "training.py", run, "--out", tmp_path / "a.png", folder=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    plot.save_figures(run)
    assert (tmp_path / "a.png").read_bytes() == (run / "training.png").read_bytes()


@pytest.mark.slow
def test_the_users_settings_in_the_same_process_stay(run: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plain = [path.read_bytes() for path in plot.save_figures(run)]
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert [path.read_bytes() for path in plot.save_figures(run)] == plain
        assert mpl.rcParams["axes.facecolor"] == "red"
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_a_figure_that_fails_is_one_warning_and_drawn_by_the_next_call(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(ax: Axes, rows: object) -> None:
        raise RuntimeError("no\nfont")

    names = {path.name for path in plot.save_figures(run)}
    with monkeypatch.context() as patch:
        patch.setattr(layers, "plot_layers", fail)
        assert {path.name for path in plot.save_figures(run)} == names - {"layers.png"}
    (line,) = capsys.readouterr().err.splitlines()
    assert "layers.png cannot be drawn: RuntimeError: no font" in line
    assert not (run / "layers.png").exists()  # nor an older one, which the next call would keep
    assert {path.name for path in plot.save_figures(run)} == names


COMPARE = ("experiments/compare.py", "--methods", "random", "--sparsities", 0.9, "--seeds", 1, "--epochs", 1, "--model", "mlp")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", [pytest.param(SMALL, id="kstarts"), pytest.param(COMPARE, id="compare", marks=pytest.mark.slow)]
)
def test_without_matplotlib_the_result_is_there_and_figures_come_later(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    (tmp_path / "broken" / "matplotlib").mkdir(parents=True)
    (tmp_path / "broken" / "matplotlib" / "__init__.py").write_text("raise RuntimeError('damaged')")
    folder = tmp_path / "run"
    done = under({"PYTHONPATH": f"{tmp_path / 'broken'}:{ROOT}"}, *arguments, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert f"written to {folder}" in done.stdout
    assert [line for line in done.stderr.splitlines() if "warning" in line] == [
        "warning: a figure: the figures cannot be drawn: RuntimeError: damaged; the same command tries again"
    ]
    assert not list(folder.glob("*.png"))
    done = under({}, *arguments, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("*.png"))


@pytest.mark.process
def test_a_script_for_one_figure_ends_with_an_error(run: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a.nonsense", tmp_path / "missing" / "a.png"):
        code, output = python("plots/starts.py", run, "--out", out)
        assert code == 2, output
        assert output.startswith("error: ")
        assert output.count("\n") == 1


@pytest.mark.process
def test_what_nobody_wrote_is_one_error(run: Path, tmp_path: Path) -> None:
    for content in ("{}", '{"controls": {}}', '{"controls": 3}'):
        for name in ("config.json", "evaluations.csv", "history.csv"):
            (tmp_path / name).write_bytes((run / name).read_bytes())
        sums.replace_files(tmp_path, {"result.json": content.encode()})
        code, output = python("plots/layers.py", tmp_path)
        assert code == 2, output
        assert "layers.png cannot be drawn" in output
        assert output.count("\n") == 1


# The working folder


@pytest.mark.slow
def test_a_relative_folder_of_data_stays_what_it_was(tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mnist").symlink_to(mnist_dir.absolute())
    (tmp_path / "elsewhere").mkdir()
    recipe = ep.Recipe(epochs=1)
    for given, environment in ((Path("mnist"), None), (None, "~/mnist")):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path / "home")
        if environment is None:
            monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
        else:
            monkeypatch.setenv("EVOPRUNE_DATA", environment)
        problem = ep.Problem("mlp", "mnist", recipe, data_dir=given, widths=(4,))
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert pickle.loads(pickle.dumps(problem)) == problem
        problem.redrawn(7)
        assert Comparison({"data_dir": "mnist"}, {}, {}).problem["data_dir"] == str(tmp_path / "elsewhere" / "mnist")


def test_a_working_folder_that_changes_during_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: ep.Problem
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ep.baselines.snip(digits, sparsity=0.9).save("own.npz")
    evolution = ep.Evolution(k=2, generations=1, start=("own.npz", "random"))
    board = ep.TensorBoard("board")

    class Wander:
        def on_generation(self, state: State) -> None:
            monkeypatch.chdir(tmp_path / "there")

    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    where = Execution(out=Path("run"))
    ep.evolve(digits, evolution, sparsity=0.9, fitness_epochs=1, out="run", callbacks=[Wander(), board])
    assert not list((tmp_path / "there").iterdir())
    assert (tmp_path / "here" / "run" / "result.json").exists()
    assert list((tmp_path / "here" / "board").iterdir())
    assert where.out == tmp_path / "here" / "run"
    # the setting keeps its text, and the same options are the same run from anywhere
    assert records.read_json(tmp_path / "here" / "run" / "config.json")["settings"]["start"] == ["own.npz", "random"]
    ep.evolve(digits, evolution, sparsity=0.9, fitness_epochs=1, out=tmp_path / "here" / "run")


# Scripts without a main guard


UNGUARDED = """
import evoprune as ep
problem = ep.Problem("mlp", data="digits")
{work}
"""
K_STARTS = 'ep.k_starts(problem, k=2, sparsity=0.9, fitness_epochs=1, workers="{workers}")'
POOL = """
import multiprocessing
toolbox = ep.make_toolbox(problem, sparsity=0.9, fitness="loss", fitness_epochs=1)
masks = toolbox.population(n=2)
toolbox.evaluate(masks[0])
with multiprocessing.get_context("spawn").Pool(1) as pool:
    pool.map(toolbox.evaluate, masks)
"""
LAUNCHER = ("-m", "evoprune.scoop", "-n", "2")


IN_OUR_GUARD = "from evoprune.cli.guard import guard\nguard(lambda: " + K_STARTS.format(workers="auto") + ")"


@pytest.mark.sampled(1)
@pytest.mark.process
@pytest.mark.parametrize(
    ("launcher", "work"),
    [
        pytest.param(LAUNCHER, K_STARTS.format(workers="auto"), id="scoop"),
        pytest.param(LAUNCHER, "ep.baseline(problem, method='random', sparsity=0.9)", id="baseline", marks=pytest.mark.slow),
        pytest.param(LAUNCHER, IN_OUR_GUARD, id="in our guard", marks=pytest.mark.slow),
        pytest.param((), K_STARTS.format(workers="dask:2"), id="dask"),
        pytest.param((), POOL, id="pool"),
    ],
)
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path, launcher: tuple[str, ...], work: str) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED.format(work=work) + "import time\ntime.sleep(100)\n")
    code, output = python_anew(*launcher, tmp_path / "script.py", folder=tmp_path, deadline=100)
    assert code != 0
    assert output.count(MISSING_GUARD) == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if "resource_tracker" not in line]
    assert len(lines) == 1, output


@pytest.mark.process
def test_definitions_may_stay_outside_the_guard(tmp_path: Path) -> None:
    """As DEAP's examples have it; and what the guard is part of may be larger."""
    work = """
toolbox = ep.make_toolbox(problem, sparsity=0.9, fitness="loss", fitness_epochs=1)
try:
    if __name__ == "__main__":
        masks = toolbox.population(n=2)
        print("DONE", len(list(toolbox.map(toolbox.evaluate, masks))))
finally:
    pass
"""
    (tmp_path / "script.py").write_text(UNGUARDED.format(work=work))
    code, output = python_anew(*LAUNCHER, "--quiet", tmp_path / "script.py", folder=tmp_path, deadline=100)
    assert (code, output) == (0, "DONE 2\n")


# Ctrl-C


LONG = ["experiments/kstarts.py", "--model", "mlp", "--k", "2000", "--epochs", "3", "--fitness-epochs", "2"]
SCOOP = pytest.param(LAUNCHER, id="scoop")
DASK = ("--workers", "dask:2")


def interrupt(process: subprocess.Popen[str], times: int = 1) -> None:
    """Does what Ctrl-C in a terminal does: all processes of the group get the signal."""
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)


def assert_one_line(process: subprocess.Popen[str]) -> None:
    code, output = finish(process, 60)
    assert code == 130, output
    assert output.count("interrupted") == 1, output
    assert "Traceback" not in output
    assert "Exception ignored" not in output


def many(*few: object, marks: object = pytest.mark.slow) -> list[object]:
    """Returns parameters of which the first is tried always, and the others in the slow tests."""
    return [few[0], *(pytest.param(value, marks=marks) for value in few[1:])]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("delay", many(0.7, 0.3, 1.5, 2.5))
@pytest.mark.parametrize("launcher", [pytest.param((), id="alone"), SCOOP])
def test_ctrl_c_in_the_first_seconds(tmp_path: Path, launcher: tuple[str, ...], delay: float) -> None:
    process = start([*launcher, *LONG, "--out", str(tmp_path / "run")])
    time.sleep(delay)
    interrupt(process)
    assert_one_line(process)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("times", many(2, 1, 3))
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(LONG, id="kstarts"),
        pytest.param([*LAUNCHER, *LONG], id="scoop"),
        pytest.param([*LONG, *DASK], id="dask", marks=pytest.mark.slow),
        pytest.param(["experiments/evolve.py", "--model", "mlp", "--generations", "400"], id="evolve", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_once_and_again(tmp_path: Path, command: list[str], times: int) -> None:
    process = start([*command, "--out", str(tmp_path / "run")])
    wait_for(process, (tmp_path / "run" / "evaluations.csv").exists)
    interrupt(process, times)
    assert_one_line(process)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 2.0])
def test_ctrl_c_while_dask_starts(tmp_path: Path, delay: float) -> None:
    process = start([*LONG, *DASK, "--out", str(tmp_path / "run")])
    wait_for(process, (tmp_path / "run" / "config.json").exists)
    time.sleep(delay)
    interrupt(process, 2)
    assert_one_line(process)


@pytest.mark.process
def test_ctrl_c_stays_ignored_in_the_background(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os\nfrom evoprune.cli.guard import guard\nguard(lambda: os.kill(os.getpid(), 2))\n")
    code = f"import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(p := sys.executable, [p, {str(script)!r}])"
    assert python_anew("-c", code) == (0, "")
