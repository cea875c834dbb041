"""Find objects in images. The same as `detector predict`; see `--help`."""

from detector.cli import predict

if __name__ == "__main__":
    raise SystemExit(predict())
