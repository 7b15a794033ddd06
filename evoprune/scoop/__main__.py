"""``python -m evoprune.scoop``."""

from evoprune.system import signals

if __name__ == "__main__":
    signals.end_at_once(signals.STOPPED)  # before what takes longer to import

    from evoprune.scoop.launcher import main

    main()
