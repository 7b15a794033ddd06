"""Files of the user's, and plugins."""

import importlib.metadata
import pickle
import sys

import cloudpickle
import pytest

from evoprune.errors import InputError
from evoprune.operators.mutation import MUTATIONS
from evoprune.system import loading
from evoprune.system.loading import identify_loaded, load, load_plugins, loaded

MINE = """
import evoprune as ep
from dataclasses import dataclass

TIMES = 2  # twice

@dataclass(frozen=True)
class Facts:
    value: int = 7

@ep.register.mutation("mine")
def mine(mask, *, fraction, rng):
    for _ in range(TIMES):
        ep.operators.swap(mask, fraction=fraction, rng=rng)
    return (mask,)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(loading, "_plugins", [])
    yield
    MUTATIONS.forget("mine")
    for name in [name for name in sys.modules if name.startswith(loading.PREFIX)]:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_file_is_imported_once_and_registers(file):
    module = load(file)
    assert load(str(file)) is module
    assert MUTATIONS["mine"] is module.mine
    assert [(each.path, each.text) for each in loaded()] == [(file, MINE)]


def test_a_file_that_changed_is_imported_again(file):
    before = load(file)
    digests = identify_loaded()
    file.write_text(MINE.replace("# twice", "# two times"))
    assert load(file) is not before
    assert identify_loaded() == digests  # a comment
    file.write_text(MINE.replace("TIMES = 2", "TIMES = 3"))
    assert load(file).TIMES == 3
    assert MUTATIONS["mine"] is load(file).mine
    assert list(identify_loaded()) == list(digests) == ["load mine.py"]
    assert identify_loaded() != digests


def test_an_edit_in_the_middle_of_work_counts_after_it(file):
    before = load(file)
    with loading.unchanging():
        file.write_text(MINE.replace("TIMES = 2", "TIMES = 3"))
        assert load(file) is before
        assert loaded()[0].text == MINE
    assert load(file).TIMES == 3


def test_definitions_travel_by_value(file):
    module = load(file)
    content = cloudpickle.dumps((module.mine, module.Facts(3)))
    del sys.modules[module.__name__]  # as in a worker, which has no such file
    mine, facts = pickle.loads(content)
    assert mine is not module.mine
    assert mine.__globals__["TIMES"] == 2
    assert facts.value == 3


def test_a_file_that_cannot_be_loaded_is_refused(tmp_path, file):
    with pytest.raises(InputError, match="expected a Python file"):
        load(tmp_path / "none.py")
    for text, reason in (("1 +", "SyntaxError"), ("import not_there_at_all", "ModuleNotFoundError"), ("1 / 0", "ZeroDivision")):
        (tmp_path / "broken.py").write_text(text)
        with pytest.raises(InputError, match=reason):
            load(tmp_path / "broken.py")
    assert loading.PREFIX + "broken" not in sys.modules
    load(file)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(MINE)
    with pytest.raises(InputError, match="expected files of different names"):
        load(tmp_path / "other" / "mine.py")


def test_plugins_are_loaded_once(tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text("calls = []\ndef register():\n    calls.append(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        importlib.metadata.EntryPoint("mine", "my_plugin:register", loading.PLUGINS),
        importlib.metadata.EntryPoint("broken", "my_other_plugin", loading.PLUGINS),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    with pytest.warns(UserWarning, match="the plugin 'broken'"):
        load_plugins()
    load_plugins()
    assert sys.modules["my_plugin"].calls == [1]


def test_a_file_that_ends_the_process_is_refused(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match=r"cannot load .*ends.py: SystemExit: 3\. Expected a file .*__main__"):
        loading.load(tmp_path / "ends.py")
