"""Measure the program itself. The same as `detector benchmark`; see `--help`."""

from detector.cli import benchmark

if __name__ == "__main__":
    raise SystemExit(benchmark())
