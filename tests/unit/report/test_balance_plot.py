import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detector.report import balance

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is missing")

BLUE, ORANGE = (0, 114, 178), (230, 159, 0)  # of the first and the second head
Row = dict[str, Any]


def row(
    step: int,
    shares: Sequence[float | None] = (0.3, 0.7),
    *,
    losses: Sequence[float | None] = (0.5, 0.8),
    cosine: float | None = 0.1,
    names: tuple[str, str] = ("box", "classification"),
    stage: str = "joint",
) -> Row:
    branches = [
        {"name": name, "loss": loss, "gradient_norm": share, "share": share, "weight": 1.0}
        for name, loss, share in zip(names, losses, shares, strict=True)
    ]
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 100,
        "losses": {f"{names[0]}.smooth_l1": 0.1},
        "branches": branches,
        "cosines": [{"a": names[0], "b": names[1], "cosine": cosine}],
        "stage": stage,
    }


class Run:
    """A run folder to be drawn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.picture = folder / "balance.png"

    def draw(self, rows: Sequence[Row], *, tail: str = "") -> bool:
        text = "".join(f"{json.dumps(one)}\n" for one in rows) + tail
        (self.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        return balance.draw(self.folder / "metrics.jsonl", self.picture)

    def pixels(self, rows: Sequence[Row], *, tail: str = "") -> NDArray[np.uint8]:
        assert self.draw(rows, tail=tail)
        with Image.open(self.picture) as image:
            assert image.format == "PNG"
            return np.asarray(image.convert("RGB"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def area(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=-1).sum())


ROWS = [row(50 * n, (0.2 + n / 40, 0.8 - n / 40), losses=(1 / n, 0.5 / n), cosine=n / 20) for n in range(1, 11)]


@needs_matplotlib
def test_a_picture_is_drawn_and_nothing_else_is_left_behind(run: Run) -> None:
    pixels = run.pixels(ROWS)
    assert {path.name for path in run.folder.iterdir()} == {"metrics.jsonl", "balance.png"}
    assert pixels.shape[0] > 600
    assert (pixels[0, 0] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@needs_matplotlib
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_each_head_covers_its_share(run: Run, share: float) -> None:
    pixels = run.pixels([row(step, (share, 1 - share)) for step in (0, 100)])
    # The warning zone takes a tenth from either.
    blue, orange = area(pixels, BLUE), area(pixels, ORANGE)
    assert blue / (blue + orange) == pytest.approx((share - 0.1) / 0.8, abs=0.03)


@needs_matplotlib
def test_the_warning_zone_is_pale(run: Run) -> None:
    pixels = run.pixels([row(step, (0.09, 0.91)) for step in (0, 100)])
    assert area(pixels, BLUE) < 2_000  # the lines and the marks; the area would be 20,000
    assert area(pixels, ORANGE) > 100_000


@needs_matplotlib
def test_a_loss_cosine_or_share_changes_the_picture(run: Run) -> None:
    before = run.pixels(ROWS)
    for changed in (row(550), row(550, (0.5, 0.5)), row(550, losses=(0.1, 0.8)), row(550, cosine=-0.9)):
        after = run.pixels([*ROWS, changed])
        assert not np.array_equal(before, after)
        before = after


@needs_matplotlib
@pytest.mark.parametrize(
    "tail", ['{"kind": "train", "st', '{"kind"', "12", "null", '{"kind": "train", "st{"kind": "train", "step": 900}\n']
)
def test_half_a_line_is_passed_over(run: Run, tail: str) -> None:
    assert np.array_equal(run.pixels(ROWS, tail=tail), run.pixels(ROWS))


@needs_matplotlib
def test_half_a_character_is_passed_over(run: Run) -> None:
    expected = run.pixels(ROWS)
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write('{"kind": "train", "stage": "é'.encode()[:-1])
    assert balance.draw(run.folder / "metrics.jsonl", run.picture)
    with Image.open(run.picture) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), expected)


@needs_matplotlib
def test_evaluations_are_passed_over(run: Run) -> None:
    evaluation = {"kind": "evaluation", "step": 200, "epoch": 1.0, "ap": 0.3, "branches": ROWS[0]["branches"]}
    assert np.array_equal(run.pixels([*ROWS[:4], evaluation, *ROWS[4:]]), run.pixels(ROWS))


@needs_matplotlib
def test_what_a_resumed_run_did_again_counts_once_and_as_done_last(run: Run) -> None:
    lost = [row(step, (0.9, 0.1), losses=(9, 9), cosine=-1.0) for step in (250, 300, 350)]
    assert np.array_equal(run.pixels([*ROWS[:4], *lost, *ROWS[4:]]), run.pixels(ROWS))


@needs_matplotlib
def test_a_step_without_a_measurement_is_bridged(run: Run) -> None:
    measured = [row(step) for step in (0, 50, 100)]
    between = row(50, (None, None), cosine=None)
    assert np.array_equal(run.pixels([measured[0], between, measured[2]]), run.pixels(measured))


@needs_matplotlib
@pytest.mark.parametrize("after", ["last", "first"])
def test_a_stage_without_a_measurement_is_left_blank(run: Run, after: str) -> None:
    rows = [row(step, stage="first") for step in (0, 50)]
    last = [row(step, stage=after) for step in (150, 200)]
    blank = [row(step, (None, None), stage="middle") for step in (60, 100, 140)]
    filled = [row(step, stage="middle") for step in (60, 100, 140)]
    assert area(run.pixels([*rows, *blank, *last]), ORANGE) < 0.7 * area(run.pixels([*rows, *filled, *last]), ORANGE)


@needs_matplotlib
def test_half_a_measurement_is_none(run: Run) -> None:
    rows = [row(0), row(50), row(100)]
    assert np.array_equal(run.pixels([rows[0], row(50, (0.9, None)), rows[2]]), run.pixels(rows))
    assert np.array_equal(run.pixels([rows[0], row(50, (0.9, float("nan"))), rows[2]]), run.pixels(rows))


@needs_matplotlib
@pytest.mark.parametrize(
    "extra",
    [
        [],
        [row(100, losses=(0, 0), cosine=None)],
        [row(100, losses=(None, 1.0))],
        [row(100, losses=(float("nan"), float("inf")))],
        [row(100, losses=(1e-9, 1e9))],
        [row(100, losses=(0.5, 0.5)), {**row(150), "cosines": []}, {**row(200), "cosines": None, "branches": []}],
        [row(100, stage=stage) for stage in ("a" * 99,)] + [row(101 + n, stage=f"stage {n}") for n in range(20)],
    ],
    ids=["one row", "zeros", "nulls", "not finite", "far apart", "no cosines", "many stages"],
)
def test_gaps_and_extremes_are_drawn(run: Run, extra: list[Row]) -> None:
    assert area(run.pixels([row(50), *extra]), BLUE) > 1_000


@needs_matplotlib
def test_a_loss_of_zero_is_left_out_of_the_logarithm(run: Run) -> None:
    rows = [row(0), row(50)]
    zero, absent = row(100, losses=(0, 0.8)), row(100, losses=(None, 0.8))
    assert np.array_equal(run.pixels([*rows, zero]), run.pixels([*rows, absent]))


@needs_matplotlib
def test_nothing_but_a_share_is_still_a_picture(run: Run) -> None:
    one = {**row(50, losses=(None, None)), "cosines": []}
    assert area(run.pixels([one]), BLUE) > 1_000


@needs_matplotlib
def test_names_are_no_formulas(run: Run) -> None:
    # Read as mathtext the first is an error, and the second an x in italics.
    for name in (r"$\frac{$", "$x$"):
        pixels = run.pixels([row(0, names=(name, "b"), stage=name), row(90, names=(name, "b"), stage="last")])
        bare = name.replace("$", "")
        plain = run.pixels([row(0, names=(bare, "b"), stage=bare), row(90, names=(bare, "b"), stage="last")])
        ink = [int((picture < 128).all(axis=-1).sum()) for picture in (pixels, plain)]
        assert ink[0] > ink[1]  # by the dollars


@needs_matplotlib
@pytest.mark.parametrize("name", ["x" * 500, "", "two\nlines", "箱", "\ud800", "\x00", "_private"])
def test_any_name_is_drawn_without_a_warning(run: Run, name: str) -> None:
    rows = [row(0, names=(name, "other"), stage=name), row(50, names=(name, "other"), stage="last")]
    pixels = run.pixels(rows)
    assert (pixels[:, -4:] == 255).all()  # nothing runs over the edge
    assert (pixels[:4] == 255).all()


@needs_matplotlib
def test_many_heads_have_labels_apart(run: Run) -> None:
    names = [f"head {n}" for n in range(9)]
    one = row(0)
    one["branches"] = [{"name": name, "loss": 0.5, "gradient_norm": 1, "share": 1 / 9} for name in names]
    pixels = run.pixels([one, {**one, "step": 10}])
    beside = (pixels[:, 910:920] < 245).any(axis=(1, 2))  # the marks, left of the names
    starts = int((beside[1:] & ~beside[:-1]).sum())
    assert starts == 9 + 9 + 1  # shares, losses, one pair


@needs_matplotlib
def test_a_failure_leaves_the_earlier_picture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.draw(ROWS)
    before = run.picture.read_bytes()

    def fail(path: Path, _content: bytes) -> int:
        with path.open("wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        run.draw(ROWS[:3])
    assert run.picture.read_bytes() == before
    assert len(list(run.folder.iterdir())) == 2


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(50, (None, None))],
        [row(50, (0.4, None))],
        [{"kind": "train", "step": 50, "epoch": 1.0}],
        [{"kind": "evaluation", "step": 50, "branches": ROWS[0]["branches"]}],
    ],
    ids=["empty", "null", "half", "older run", "evaluation only"],
)
def test_without_a_share_nothing_is_written(run: Run, rows: list[Row]) -> None:
    assert run.draw(rows) is False
    assert not run.picture.exists()


@needs_matplotlib
def test_no_state_is_shared(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from detector.report import balance\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        f"assert balance.draw(Path({str(run.folder / 'metrics.jsonl')!r}), Path({str(run.picture)!r}))\n"
        "assert matplotlib.rcParams.copy() == before and 'matplotlib.pyplot' not in sys.modules\n"
    )
    run.draw(ROWS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
