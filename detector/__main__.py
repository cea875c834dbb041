"""`python -m detector` is the same as `detector`."""

from detector.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
