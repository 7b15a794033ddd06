"""The command line: options, and the course of a script."""
