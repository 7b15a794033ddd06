"""Ctrl-C where Python drops exceptions."""

import pytest
from support.processes import finish, start

from evoprune.system.signals import INTERRUPTED, RESUMES

WHILE_DELETED = """
import os, signal, time
from evoprune.cli.guard import guard

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def script():
    slow = Slow()
    del slow
    print("went on")

guard(script)
"""


@pytest.mark.process
def test_ctrl_c_while_an_object_is_deleted_ends_the_run() -> None:
    code, output = finish(start(["-c", WHILE_DELETED]), 60)
    assert (code, output) == (INTERRUPTED, f"{RESUMES}\n")
