"""The composition root: what each command does, put together from the packages below."""

from detector.run.comparing import CompareOutcome, compare
from detector.run.data_paths import DataPaths
from detector.run.predicting import predict
from detector.run.reporting import ReportOutcome, report
from detector.run.scoring import EvalOutcome, evaluate, evaluate_files
from detector.run.training import TrainOutcome, train
from detector.train.forensics import replay

__all__ = [
    "CompareOutcome",
    "DataPaths",
    "EvalOutcome",
    "ReportOutcome",
    "TrainOutcome",
    "compare",
    "evaluate",
    "evaluate_files",
    "predict",
    "replay",
    "report",
    "train",
]
