"""Write a model file of half the size. The same as `detector export`; see `--help`."""

from detector.cli import export

if __name__ == "__main__":
    raise SystemExit(export())
