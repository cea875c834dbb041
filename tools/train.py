"""Train a detector. The same as `detector train`; see `--help`."""

from detector.cli import train

if __name__ == "__main__":
    raise SystemExit(train())
