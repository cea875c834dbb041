"""Write the report of a run. The same as `detector report`; see `--help`."""

from detector.cli import report

if __name__ == "__main__":
    raise SystemExit(report())
