"""An evaluator as plain as can be, and the mistakes that such programs have been known to make.

Each mistake is one deviation by name. The evaluator without any is pycocotools over again, written from its rules; the
tests hold it to that, and then ask that their data sets tell every mistaken one from it.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tests.unit.evaluate.generate import Case

Tree = dict[str, Any]

MISTAKES: Final = (
    "thresholds by arange",
    "recall points by i / 100",
    "scores not sorted",
    "sort unstable in reverse",
    "images in file order",
    "area from the box",
    "area ends exclusive",
    "small includes nothing at 1024",
    "crowd as object",
    "crowd dropped",
    "crowd met once",
    "crowd by plain iou",
    "crowd before objects",
    "first of equal overlaps",
    "threshold strict",
    "iou plus one",
    "limit per image",
    "limit dropped",
    "limit 10 and 100 swapped",
    "absent class counts as 0",
    "images without detections skipped",
    "images without objects skipped",
    "no envelope",
    "recall searched from the right",
    "no class check",
    "object met twice",
    "matched outside the range ignored",
    "unmatched outside the range wrong",
    "AP75 at 0.7",
    "AP50 is the mean",
    "recall at 0.5 alone",
    "detections without area dropped",
    "classes pooled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    precision: np.ndarray  # [threshold, recall, class, size, limit]
    recall: np.ndarray  # [threshold, class, size, limit]
    twelve: tuple[float, ...]


def evaluate(case: Case, mistake: str = "") -> Evaluation:
    """Everything pycocotools gives, with at most one mistake."""
    return _Evaluator(case, mistake).run()


class _Evaluator:
    def __init__(self, case: Case, mistake: str) -> None:
        assert mistake == "" or mistake in MISTAKES, mistake
        self.mistake = mistake
        self.thresholds = np.linspace(0.5, 0.95, 10)
        if mistake == "thresholds by arange":
            self.thresholds = np.arange(0.5, 1.0, 0.05)
        self.recalls = np.arange(101) / 100 if mistake == "recall points by i / 100" else np.linspace(0, 1, 101)
        self.ranges = [(0, 1e10), (0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)]
        if mistake == "small includes nothing at 1024":
            self.ranges[1] = (0, np.nextafter(32.0**2, 0))
        self.limits = [1, 100, 10] if mistake == "limit 10 and 100 swapped" else [1, 10, 100]
        images = [image["id"] for image in case.tree["images"]]
        self.images = images if mistake == "images in file order" else sorted(images)
        self.classes = sorted(category["id"] for category in case.tree["categories"])
        self.objects: list[Tree] = case.tree["annotations"]
        self.found = case.found
        if mistake == "detections without area dropped":
            self.found = [one for one in self.found if one["bbox"][2] * one["bbox"][3] > 0]
        if mistake == "crowd dropped":
            self.objects = [one for one in self.objects if not one["iscrowd"]]

    def run(self) -> Evaluation:
        shape = (len(self.thresholds), len(self.recalls), len(self.classes), 4, 3)
        precision, recall = -np.ones(shape), -np.ones((shape[0], *shape[2:]))
        for k, label in enumerate(self.classes):
            pairs = {image: self._pair(image, label) for image in self.images}
            for a, area in enumerate(self.ranges):
                judged = {image: self._judge(*pairs[image], area) for image in self.images}
                for m, limit in enumerate(self.limits):
                    self._accumulate(list(judged.values()), limit, precision[:, :, k, a, m], recall[:, k, a, m])
        return Evaluation(precision=precision, recall=recall, twelve=self._twelve(precision, recall))

    def _pair(self, image: int, label: int) -> tuple[list[Tree], list[Tree], np.ndarray]:
        """Objects, detections best first, and their overlaps."""
        pooled = self.mistake in ("no class check", "classes pooled")
        objects = [o for o in self.objects if o["image_id"] == image and (pooled or o["category_id"] == label)]
        found = [d for d in self.found if d["image_id"] == image]
        if self.mistake != "limit dropped" and self.mistake == "limit per image":
            found = sorted(found, key=lambda d: -d["score"])[:100]
        found = [d for d in found if self.mistake == "classes pooled" or d["category_id"] == label]
        if self.mistake == "sort unstable in reverse":
            found = found[::-1]
        if self.mistake != "scores not sorted":
            found = sorted(found, key=lambda d: -d["score"])
        if self.mistake != "limit dropped":
            found = found[:100]
        overlaps = np.array([[self._iou(d, o) for o in objects] for d in found])
        return objects, found, overlaps.reshape(len(found), len(objects))

    def _iou(self, detection: Tree, thing: Tree) -> float:
        extra = 1.0 if self.mistake == "iou plus one" else 0.0
        (x, y, w, h), (u, v, s, t) = detection["bbox"], thing["bbox"]
        wide, high = min(x + w, u + s) - max(x, u) + extra, min(y + h, v + t) - max(y, v) + extra
        if wide <= 0 or high <= 0:
            return 0.0
        mine, theirs = (w + extra) * (h + extra), (s + extra) * (t + extra)
        is_crowd = thing["iscrowd"] and self.mistake not in ("crowd by plain iou", "crowd as object")
        return wide * high / (mine if is_crowd else mine + theirs - wide * high)

    def _judge(
        self, objects: list[Tree], found: list[Tree], overlaps: np.ndarray, area: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
        """Scores, whether each detection met something, whether it is ignored, and the number of objects."""
        if not objects and not found:
            return None
        if (self.mistake == "images without detections skipped" and not found) or (
            self.mistake == "images without objects skipped" and not objects
        ):
            return None

        def outside(value: float) -> bool:
            low, high = area
            return value <= low or value >= high if self.mistake == "area ends exclusive" else not low <= value <= high

        is_crowd = [bool(o["iscrowd"]) and self.mistake != "crowd as object" for o in objects]
        sizes = [o["bbox"][2] * o["bbox"][3] if self.mistake == "area from the box" else o["area"] for o in objects]
        ignored = [crowd or outside(size) for crowd, size in zip(is_crowd, sizes, strict=True)]
        order = sorted(range(len(objects)), key=lambda g: ignored[g])
        if self.mistake == "crowd before objects":
            order = sorted(range(len(objects)), key=lambda g: not ignored[g])
        met, is_ignored = np.zeros((2, len(self.thresholds), len(found)), bool)
        for t, threshold in enumerate(self.thresholds):
            taken: set[int] = set()
            for d in range(len(found)):
                best = self._best(overlaps[d], threshold, order, ignored, is_crowd, taken)
                if best is None:
                    size = found[d]["bbox"][2] * found[d]["bbox"][3]
                    is_ignored[t, d] = outside(size) and self.mistake != "unmatched outside the range wrong"
                    continue
                taken.add(best)
                met[t, d] = True
                size = found[d]["bbox"][2] * found[d]["bbox"][3]
                is_ignored[t, d] = ignored[best] or (
                    self.mistake == "matched outside the range ignored" and outside(size)
                )
        scores = np.array([d["score"] for d in found])
        return scores, met, is_ignored, len(objects) - sum(ignored)

    def _best(
        self,
        overlap: np.ndarray,
        threshold: float,
        order: list[int],
        ignored: list[bool],
        is_crowd: list[bool],
        taken: set[int],
    ) -> int | None:
        best, needed = None, min(threshold, 1 - 1e-10)
        for g in order:
            may_repeat = (is_crowd[g] and self.mistake != "crowd met once") or self.mistake == "object met twice"
            if g in taken and not may_repeat:
                continue
            if best is not None and not ignored[best] and ignored[g] and self.mistake != "crowd before objects":
                break
            too_low = overlap[g] < needed
            if self.mistake == "threshold strict" and best is None:
                too_low = overlap[g] <= needed
            if self.mistake == "first of equal overlaps" and best is not None:
                too_low = overlap[g] <= needed
            if not too_low:
                best, needed = g, overlap[g]
        return best

    def _accumulate(self, judged: list[Any], limit: int, precision: np.ndarray, recall: np.ndarray) -> None:
        known = [one for one in judged if one is not None]
        count = sum(one[3] for one in known)
        if count == 0:
            if self.mistake == "absent class counts as 0":
                precision[:], recall[:] = 0, 0
            return
        cut = None if self.mistake == "limit dropped" else limit
        scores = np.concatenate([one[0][:cut] for one in known])
        order = np.argsort(-scores, kind="mergesort")
        if self.mistake == "scores not sorted":
            order = np.arange(len(scores))
        met = np.concatenate([one[1][:, :cut] for one in known], axis=1)[:, order]
        ignored = np.concatenate([one[2][:, :cut] for one in known], axis=1)[:, order]
        for t in range(len(self.thresholds)):
            right = np.cumsum(met[t] & ~ignored[t]).astype(float)
            wrong = np.cumsum(~met[t] & ~ignored[t]).astype(float)
            reached, exact = right / count, right / (right + wrong + np.spacing(1))
            recall[t] = reached[-1] if len(reached) else 0
            if self.mistake != "no envelope":
                exact = np.maximum.accumulate(exact[::-1])[::-1]
            side = "right" if self.mistake == "recall searched from the right" else "left"
            places = np.searchsorted(reached, self.recalls, side=side)
            precision[t] = [exact[place] if place < len(exact) else 0 for place in places]

    def _twelve(self, precision: np.ndarray, recall: np.ndarray) -> tuple[float, ...]:
        def mean(values: np.ndarray) -> float:
            known = values[values > -1]
            return float(known.mean()) if known.size else -1.0

        of_75 = 4 if self.mistake == "AP75 at 0.7" else 5
        of_50 = slice(None) if self.mistake == "AP50 is the mean" else slice(0, 1)
        if self.mistake == "recall at 0.5 alone":
            recall = recall[:1]
        p, r = precision[..., 2], recall
        numbers = [p[..., 0], p[of_50, ..., 0], p[of_75 : of_75 + 1, ..., 0], *(p[..., k] for k in (1, 2, 3))]
        return tuple(map(mean, [*numbers, *(r[:, :, 0, k] for k in range(3)), *(r[:, :, k, 2] for k in (1, 2, 3))]))
