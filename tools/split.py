"""Deal one COCO file into a data set with splits. The same as `detector split`; see `--help`."""

from detector.cli import split

if __name__ == "__main__":
    raise SystemExit(split())
