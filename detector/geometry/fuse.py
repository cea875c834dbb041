"""Weighted boxes fusion: one box out of all that several models gave one object."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from numpy import ndarray
from torch import Tensor


def fuse(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    *,
    num_models: int,
    iou_threshold: float,
) -> tuple[Float[Tensor, "k 4"], Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Boxes, scores and labels of the clusters of one image, best first (Solovyev et al. 2021, section 3).

    A cluster's box is the mean of its members weighted by score. Its score is their mean times min(T, N) / N, for T
    members and N models: the first of the paper's two rescalings, in which a model may count twice. So the fusion need
    not know which model found what. A cluster of one box out of one model keeps every bit. Of equal scores the earlier
    detection goes first.

    Args:
        boxes: xyxy, finite, x1 >= x0 and y1 >= y0. A box without area overlaps nothing.
        scores: In [0, 1].
        labels: Boxes of different labels never meet.
        num_models: How many models looked at the image, found or not; at least 1.
        iou_threshold: A box joins the cluster whose box, as fused so far, it overlaps most, if by more than this.
    """
    order = scores.argsort(descending=True, stable=True)
    # The loop below asks for numbers one at a time: on a GPU each would be a wait, and in torch a call costs more than
    # its arithmetic.
    rows = boxes.detach()[order].to("cpu", torch.float64).numpy()
    weights = scores.detach()[order].to("cpu", torch.float64).numpy()
    kinds = labels[order].cpu().numpy()

    fused, fused_scores, founders = [np.empty((0, 4))], [np.empty(0)], [np.empty(0, np.int64)]
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        cluster, corners = _cluster(rows[members].T, weights[members], iou_threshold)
        sizes = np.bincount(cluster)
        fused.append(corners.T)
        fused_scores.append(
            np.bincount(cluster, weights[members]) / sizes * (np.minimum(sizes, num_models) / num_models)
        )
        founders.append(members[np.unique(cluster, return_index=True)[1]])

    values, origin = np.concatenate(fused_scores), np.concatenate(founders)
    best_first = np.lexsort((origin, -values))
    return (
        torch.from_numpy(np.concatenate(fused)[best_first]).to(boxes),
        torch.from_numpy(values[best_first]).to(scores),
        torch.from_numpy(kinds[origin[best_first]]).to(labels),
    )


def _cluster(
    corners: Float64[ndarray, "4 n"], scores: Float64[ndarray, " n"], iou_threshold: float
) -> tuple[Int64[ndarray, " n"], Float64[ndarray, "4 k"]]:
    """Number of each box's cluster, and the fused box of each cluster; boxes of one class, best first."""
    cluster = np.empty(len(scores), np.int64)
    fused, totals = np.empty_like(corners), np.zeros_like(scores)
    count = 0
    for row, score in enumerate(scores):
        box = corners[:, row]
        overlaps = _iou(fused[:, :count], box)
        nearest = int(overlaps.argmax()) if count else 0
        if count and overlaps[nearest] > iou_threshold:
            totals[nearest] += score
            # A running mean: it starts from the first box itself and so leaves a box that stays alone untouched.
            # A score of 0 comes last and weighs nothing, even among its like.
            fused[:, nearest] += (box - fused[:, nearest]) * (score / totals[nearest] if score else 0.0)
        else:
            nearest = count
            fused[:, nearest], totals[nearest] = box, score
            count += 1
        cluster[row] = nearest
    return cluster, fused[:, :count]


def _iou(many: Float64[ndarray, "4 k"], one: Float64[ndarray, " 4"]) -> Float64[ndarray, " k"]:
    # `boxes.pairwise_iou` says the same of tensors, at seven times the cost for so few numbers.
    x0, y0, x1, y1 = many
    width = np.minimum(x1, one[2]) - np.maximum(x0, one[0])
    height = np.minimum(y1, one[3]) - np.maximum(y0, one[1])
    overlap = width.clip(0) * height.clip(0)
    union = (x1 - x0) * (y1 - y0) + (one[2] - one[0]) * (one[3] - one[1]) - overlap
    return overlap / np.maximum(union, np.finfo(np.float64).tiny)
