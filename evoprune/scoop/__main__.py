"""``python -m evoprune.scoop``."""

from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # before the imports that take longer

    from evoprune.scoop.launcher import main

    main()
