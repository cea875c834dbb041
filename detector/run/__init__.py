"""The composition root: what each command does, put together from the packages below."""

from detector.run.batch_size import Auto
from detector.run.comparing import CompareOutcome, compare, compare_files
from detector.run.curve import CurveOutcome, learning_curve
from detector.run.data_paths import DataPaths
from detector.run.exporting import ExportOutcome, export
from detector.run.forecasting import Forecast
from detector.run.predicting import predict
from detector.run.reporting import ReportOutcome, report
from detector.run.scoring import EvalOutcome, evaluate, evaluate_files
from detector.run.smoke_test import SmokeOutcome, smoke
from detector.run.splitting import SplitOutcome, split
from detector.run.training import TrainOutcome, forecast, train
from detector.train.forensics import replay

__all__ = [
    "Auto",
    "CompareOutcome",
    "CurveOutcome",
    "DataPaths",
    "EvalOutcome",
    "ExportOutcome",
    "Forecast",
    "ReportOutcome",
    "SmokeOutcome",
    "SplitOutcome",
    "TrainOutcome",
    "compare",
    "compare_files",
    "evaluate",
    "evaluate_files",
    "export",
    "forecast",
    "learning_curve",
    "predict",
    "replay",
    "report",
    "smoke",
    "split",
    "train",
]
