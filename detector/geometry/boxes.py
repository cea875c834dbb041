"""Box arithmetic. Boxes are xyxy unless a name says otherwise; empty input gives empty output.

A box turned inside out is an empty box. Coordinates are finite and of the size of an image.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Square pixels. What covers less counts as empty: it keeps every quotient and its gradient finite in float32.
_EMPTY_AREA = 1e-12


def xyxy_to_xywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """To COCO's format: left, top, width, height."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), dim=-1)


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of each box; a box turned inside out has area zero."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 2"]:
    """Middle of each box as (x, y)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def contain(boxes: Float[Tensor, "*#n 4"], points: Float[Tensor, "*#n 2"]) -> Bool[Tensor, "*#n"]:
    """Whether each point (x, y) lies strictly inside its box. Leading axes broadcast."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    x, y = points.unbind(-1)
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def pairwise_iou(a: Float[Tensor, "*b n 4"], b: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every pair. A pair with an empty union scores 0, not NaN."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    overlap = _pairwise_overlap(a, b)
    return _ratio(overlap, area(a) + area(b) - overlap)


def iou(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Intersection over union, box by box. A pair with an empty union scores 0, not NaN."""
    overlap = _overlap(a, b)
    return _ratio(overlap, area(a) + area(b) - overlap)


def giou(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Generalised intersection over union, box by box, in [-1, 1] (Rezatofighi et al. 2019, algorithm 1).

    Value and gradient are finite for boxes without area too. Two boxes within a hull without area score 0.
    """
    overlap = _overlap(a, b)
    union = area(a) + area(b) - overlap
    hull = area(torch.cat((torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])), dim=-1))
    return _ratio(overlap, union) - _ratio(hull - union, hull)


def clip(boxes: Float[Tensor, "*n 4"], size_hw: tuple[int, int]) -> Float[Tensor, "*n 4"]:
    """Cut each box at the border of an image; a box outside becomes an empty one on the border."""
    height, width = size_hw
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack((x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), dim=-1)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    corner = torch.maximum(a[..., :2], b[..., :2])
    width, height = (torch.minimum(a[..., 2:], b[..., 2:]) - corner).clamp(min=0).unbind(-1)
    return width * height


def _pairwise_overlap(a: Tensor, b: Tensor) -> Tensor:
    # One coordinate at a time: both at once would double the memory of so large a call.
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp(min=0) * height.clamp(min=0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Quotient of two areas, 0 where the whole is empty."""
    is_empty = whole <= _EMPTY_AREA
    # The divisor is made safe first: the gradient of an unused infinite quotient would still be NaN.
    return (part / whole.masked_fill(is_empty, 1.0)).masked_fill(is_empty, 0.0)
