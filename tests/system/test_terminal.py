"""Progress and messages take turns: nothing is torn on a terminal, and a log has few lines."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest
from support.screen import shown

from evoprune.system import terminal


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@contextmanager
def attached() -> Iterator[Screen]:
    """Lets both standard streams be one terminal; not a fixture, since pytest exchanges the streams after fixtures are made."""
    screen = Screen()
    with redirect_stdout(screen), redirect_stderr(screen):
        yield screen


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_messages_appear_whole_above_two_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: sys.stderr.write(f"warning: {message}\n"))
    names = [f"{i}{j}" for i in range(4) for j in range(3)]
    with attached() as screen, warnings.catch_warnings():
        warnings.simplefilter("always")
        with terminal.bar(4, "outer") as outer:
            for i in range(4):
                with terminal.bar(3, f"inner {i}", leave=False) as inner:
                    for name in names[3 * i : 3 * i + 3]:
                        print(f"printed {name}")
                        print("two halves", end=" ")
                        print("of a line")
                        warnings.warn(f"warned {name}", stacklevel=1)
                        inner.update()
                outer.update()
        assert sys.stdout is screen
        assert sys.stderr is screen
    lines = shown(screen.getvalue(), 80)
    messages = [line for name in names for line in (f"printed {name}", "two halves of a line", f"warning: warned {name}")]
    assert [line for line in lines if line and not line.startswith("outer")] == messages
    assert [line[:11] for line in lines if line.startswith("outer")] == ["outer: 100%"]


def test_a_text_without_an_end_of_line_is_not_lost() -> None:
    with attached() as screen, terminal.bar(1, "work") as bar:
        print("begun", end="")
        bar.update()
    assert shown(screen.getvalue(), 80)[-1] == "begun"


def test_a_stream_that_the_users_code_put_there_stays() -> None:
    mine = io.StringIO()
    with attached():
        with terminal.bar(1, "work"):
            sys.stdout = mine
        assert sys.stdout is mine


def test_a_worker_clears_the_line_of_the_bar() -> None:
    with attached() as screen:
        screen.write("bar of the main process  50%|#####     ")
        terminal.clears_bars()
        print("from a", end=" ")
        print("worker")
    assert shown(screen.getvalue(), 80) == ["from a worker", ""]


def test_an_output_that_is_no_terminal_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.clears_bars()
    with terminal.bar(2, "work") as bar:
        print("printed")
        bar.update(2)
    output = capsys.readouterr()
    assert output.out == "printed\n"
    assert output.err.startswith("work: 100% 2/2, ")
    assert "\r" not in output.err
    assert output.err.count("\n") == 1


def test_a_log_has_a_line_a_tenth_but_none_within_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def lines_of(seconds: float, steps: int = 1000, **options: bool) -> list[str]:
        with terminal.bar(steps, "work", **options) as bar:
            for _ in range(steps):
                clock[0] += seconds
                bar.update()
        return [line.removeprefix("work: ").partition("%")[0] for line in capsys.readouterr().err.splitlines()]

    assert lines_of(0.001) == ["100"]
    assert lines_of(0.001, leave=False) == []
    assert lines_of(1.0) == [*map(str, range(10, 101, 10))]
    assert lines_of(1.0, leave=False) == [*map(str, range(10, 101, 10))]
    assert lines_of(0.0501) == ["20", "40", "60", "80", "100"]
    assert lines_of(300.0, steps=20) == [*map(str, range(5, 101, 5))]


def test_a_log_says_what_a_resumed_run_does(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.bar(10, "work", unit="gen", initial=8) as bar:
        clock[0] += 4
        bar.set_postfix_str("best 3")
        bar.update(2)
    assert capsys.readouterr().err == "work: 100% 10/10, 00:04,  2.00s/gen, best 3\n"
    with terminal.bar(10, "work", initial=10):
        pass
    assert capsys.readouterr().err == ""


def test_quiet_hides_progress_and_notes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.quiet():
        with terminal.quiet(False), terminal.bar(2, "work") as bar:
            bar.update(2)
            terminal.say("said")
            terminal.note("noted")
            print("printed")
        assert bar.n in (0, 2)
    terminal.say("said")
    terminal.note("noted")
    assert capsys.readouterr() == ("printed\nsaid\n", "noted\n")


def test_standard_output_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.stdout_kept() as kept:
        print("printed")
        kept.write("kept\n")
    print("after")
    assert capfd.readouterr() == ("kept\nafter\n", "printed\n")


def test_a_bar_of_nothing_is_hidden() -> None:
    with attached() as screen, terminal.bar(0, "work"):
        print("printed")
    assert screen.getvalue() == "printed\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with attached() as screen, terminal.bar(2, "work") as bar:
        bar.update(2)
    assert screen.getvalue().startswith("work: 100% 2/2")
    assert "\r" not in screen.getvalue()
