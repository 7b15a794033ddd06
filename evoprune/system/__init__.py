"""This process and its files: safe writing and reading, signals, streams, forks, imports."""
