"""SCOOP that can be trusted: ``python -m evoprune.scoop -n N script.py ...``, SCOOP behind a launcher.

- ``launcher.py``: starts the script and the workers, replaces workers that die, ends with the script's own status.
- ``options.py``: its command line.
- ``broker.py``: hands tasks to workers, on one authenticated and encrypted socket.
- ``process.py``: the process of the script and that of a worker.
- ``patches.py``: what is changed in SCOOP within these processes, each with its reason.

Futures, their queue and their control stay SCOOP's own.
"""
