"""SCOOP that can be trusted: ``python -m evoprune.scoop -n N script.py ...``, SCOOP behind a launcher.

- ``launcher.py``: starts the script and the workers, replaces workers that die, and ends with the status of the script.
- ``options.py``: its command line.
- ``broker.py``: hands tasks to workers, on one authenticated and encrypted socket.
- ``process.py``: the process of the script and that of a worker.
- ``patches.py``: the changes to SCOOP within these processes, each with its reason.

SCOOP's futures, their queue and their control are used as they are.
"""
