"""The teacher of a distillation, and what a student needs to be compared with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detector.config import Classification, DistillConfig, num_logits
from detector.errors import ConfigError
from detector.loss import distill
from detector.model import model_file, precision
from detector.model.decode import class_scores
from detector.model.model_file import TrainedModel
from detector.types import TeacherTargets

FEATURES = "features"  # the branch that is compared with the teacher's features
TERMS = ("hidden", "attention")  # of that branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What the teacher makes of a batch; without gradient."""

    levels: tuple[Tensor, ...]
    logits: Tensor  # float32 [B, A, C]
    deltas: Tensor  # float32 [B, A, 4]
    confidence: Tensor  # float32 [B, A], highest class score

    def targets(self, count: Tensor, confidence: Tensor) -> TeacherTargets:
        """For the heads, whose losses are divided by `count`; `confidence` is the mean over processes of its sum."""
        weight = self.confidence * (count / confidence.clamp(min=1e-6))
        return TeacherTargets(logits=self.logits, deltas=self.deltas, box_weight=weight)


class Teacher:
    """A trained model that is only looked at.

    Not a module, so that no optimizer, wrapper or state dict of the student takes it in.
    """

    def __init__(self, trained: TrainedModel, *, dtype: torch.dtype) -> None:
        self._model = trained.model.eval().requires_grad_(requires_grad=False)
        self._classification: Classification = trained.config.loss.classification
        self._dtype = dtype
        self.width = self._model.neck.width
        self.num_levels = len(self._model.priors(trained.preprocess.canvas_hw).level_sizes)

    @torch.no_grad()
    def look(self, images: Tensor) -> Lesson:
        model = self._model
        with precision.autocast(images.device, self._dtype):
            levels = model.trunk(model.normalise(images))
            said = model.heads(levels, model.priors((images.shape[2], images.shape[3])).boxes)
        return Lesson(
            levels=tuple(level.float() for level in levels),
            logits=said.logits.float(),
            deltas=said.deltas.float(),
            confidence=class_scores(said.logits, self._classification).amax(dim=-1),
        )


class Adapters(nn.Module):
    """Brings the student's features to the teacher's width, level by level; trained, and left behind afterwards."""

    def __init__(self, width: int, teacher_width: int, num_levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Identity() if width == teacher_width else nn.Conv2d(width, teacher_width, 1) for _ in range(num_levels)
        )

    def terms(
        self, index: int, student: Tensor, teacher: Tensor, weights: Sequence[float], config: DistillConfig
    ) -> Tensor:
        """Hidden and attention loss of one level; one whose weight is zero is not computed and zero."""
        adapted = self.levels[index](student).float()
        zero = adapted.new_zeros(())
        hidden = distill.hidden(adapted, teacher) if weights[0] else zero
        temperature = config.attention_temperature
        attention = distill.attention(student.float(), teacher, temperature) if weights[1] else zero
        return torch.stack((hidden, attention))


def load(path: Path, student: TrainedModel, *, dtype: torch.dtype) -> Teacher:
    """Read a teacher and see that the student, whose model is on its device, can be compared with it.

    Raises:
        CheckpointError: the file is no model.
        ConfigError: its classes, levels, priors, offsets or kind of scores differ from the student's.
    """
    trained = model_file.load(path, next(student.model.parameters()).device)
    theirs, ours = trained.label_map.names, student.label_map.names
    if theirs != ours:
        raise ConfigError(
            f"{path}: the teacher has other classes than the data: {_side_by_side(theirs, ours)}; "
            "train a teacher on this data"
        )
    canvas = student.preprocess.canvas_hw
    layouts = [model.model.priors(canvas) for model in (trained, student)]
    facts = {
        "priors a level": [layout.level_sizes for layout in layouts],
        "model.priors": [model.config.model.priors for model in (trained, student)],
        "model.delta_std": [model.config.model.delta_std for model in (trained, student)],
        "class outputs": [num_logits(model.config, len(ours)) for model in (trained, student)],
    }
    for name, (of_teacher, of_student) in facts.items():
        if of_teacher != of_student:
            raise ConfigError(
                f"{path}: {name} of the teacher are {of_teacher}, of the student {of_student}; "
                "train both with the same recipe but for the backbone and the widths"
            )
    return Teacher(trained, dtype=dtype)


def _side_by_side(teacher: Sequence[str], data: Sequence[str]) -> str:
    rows = max(len(teacher), len(data))
    pairs = [(i, teacher[i] if i < len(teacher) else "-", data[i] if i < len(data) else "-") for i in range(rows)]
    different = [f"{i}: teacher {a!r}, data {b!r}" for i, a, b in pairs if a != b]
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    return "; ".join(different[:5]) + more
