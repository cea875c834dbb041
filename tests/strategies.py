"""Hypothesis strategies for boxes and padded targets."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from detector.types import Targets

CANVAS = 128


@st.composite
def valid_boxes(draw: st.DrawFn, *, min_count: int = 0, max_count: int = 6, extent: int = CANVAS) -> Tensor:
    """float32 [N, 4] with sides of at least 1 pixel; they may leave the canvas by half a canvas."""
    corner = st.floats(-extent / 2, extent, width=32)
    side = st.floats(1, extent, width=32)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=min_count, max_size=max_count))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 4)


@st.composite
def grid_boxes(draw: st.DrawFn, *, count: int, extent: int = 8) -> Tensor:
    """float32 [count, 4] on a coarse grid: equal boxes, ties and boxes without area are frequent."""
    corner = st.integers(0, extent)
    rows = draw(st.lists(st.tuples(corner, corner, corner, corner), min_size=count, max_size=count))
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), dim=-1)


@st.composite
def degenerate_boxes(draw: st.DrawFn, *, count: int = 4) -> Tensor:
    """float32 [count, 4]: points, lines, slivers, boxes turned inside out, and boxes far outside the canvas."""
    x, y = draw(st.floats(-1e4, 1e4, width=32)), draw(st.floats(-1e4, 1e4, width=32))
    side = draw(st.sampled_from([0.0, 1e-30, 1e-12, 1e-6, 1.0, 1e4]))
    kinds = {
        "point": (x, y, x, y),
        "flat": (x, y, x + side, y),
        "thin": (x, y, x, y + side),
        "sliver": (0.0, 0.0, side, 1.0),
        "speck": (0.0, 0.0, side, side),
        "reversed": (x + side, y + side, x, y),
        "half reversed": (x + side, y, x, y + side),
    }
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=count, max_size=count))
    return torch.tensor([kinds[name] for name in names], dtype=torch.float32).reshape(-1, 4)


def empty_boxes() -> st.SearchStrategy[Tensor]:
    """float32 [0, 4]."""
    return st.just(torch.zeros(0, 4))


@st.composite
def padded_targets(
    draw: st.DrawFn, *, num_classes: int = 3, max_images: int = 3, max_rows: int = 5, crowds: bool = True
) -> Targets:
    """Targets whose rows are objects, crowd regions and padding in any order; M may be 0.

    Padding holds a plausible box and a wrong label, which nothing may read.
    """
    batch, rows = draw(st.integers(1, max_images)), draw(st.integers(0, max_rows))
    kinds = ["object", "padding", "crowd"] if crowds else ["object", "padding"]
    kind = draw(st.lists(st.sampled_from(kinds), min_size=batch * rows, max_size=batch * rows))
    boxes = draw(valid_boxes(min_count=batch * rows, max_count=batch * rows))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=batch * rows, max_size=batch * rows))
    is_padding = torch.tensor([k == "padding" for k in kind], dtype=torch.bool)
    rubbish = torch.tensor([10.0, 20.0, 90.0, 70.0])
    return Targets(
        boxes=torch.where(is_padding[:, None], rubbish, boxes).reshape(batch, rows, 4),
        labels=torch.where(is_padding, -1, torch.tensor(labels, dtype=torch.int64)).reshape(batch, rows),
        is_object=torch.tensor([k == "object" for k in kind], dtype=torch.bool).reshape(batch, rows),
        is_crowd=torch.tensor([k == "crowd" for k in kind], dtype=torch.bool).reshape(batch, rows),
    )
