"""Compare two models. The same as `detector compare`; see `--help`."""

from detector.cli import compare

if __name__ == "__main__":
    raise SystemExit(compare())
