"""Score a model or a results file. The same as `detector eval`; see `--help`."""

from detector.cli import evaluate

if __name__ == "__main__":
    raise SystemExit(evaluate())
