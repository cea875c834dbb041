"""The command line: words to settings, results to standard output, errors to exit codes."""

from detector.cli.doors import (
    COMMANDS,
    benchmark,
    compare,
    evaluate,
    export,
    main,
    predict,
    replay,
    report,
    split,
    status,
    train,
)

__all__ = [
    "COMMANDS",
    "benchmark",
    "compare",
    "evaluate",
    "export",
    "main",
    "predict",
    "replay",
    "report",
    "split",
    "status",
    "train",
]
