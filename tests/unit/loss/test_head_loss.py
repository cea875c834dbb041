"""What each head is taught: against torchvision and plain formulas, in pieces and whole, whatever the batch holds."""

from typing import Any, Literal

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from detector.config import AssignConfig, Classification, DistillConfig, HeadConfig, LossConfig, TowerConfig
from detector.geometry import boxes, codec, priors
from detector.loss import distill
from detector.loss.head_loss import HeadLoss
from detector.model.heads import CustomHead, HeadShape
from detector.targets import assign, encode
from detector.types import Priors, PriorTargets, Targets, TeacherTargets
from tests import strategies

PRIORS = priors.make((strategies.CANVAS, strategies.CANVAS), (32, 64), (2.0,), (1.0,), "centre")
STD = (0.1, 0.1, 0.2, 0.2)
DENSE: tuple[Classification, ...] = ("softmax", "sigmoid", "focal", "quality")
KINDS: tuple[Classification, ...] = (*DENSE, "categorical")
NUM_CLASSES = 3
ALL_ON = {"giou_weight": 1.0}
CLASSES = HeadConfig(name="classification", kind="classification")
BOX = HeadConfig(name="box", kind="box")
QUALITY = HeadConfig(name="quality", kind="quality")


def head_loss(head: HeadConfig, has_teacher: bool = False, delta_std: codec.Std = STD, **config: Any) -> HeadLoss:
    return HeadLoss(head=head, config=LossConfig(**config), delta_std=delta_std, has_teacher=has_teacher)


def targets_of(
    truth: Targets, kind: Literal["atss", "max_iou"] = "atss", layout: Priors = PRIORS, teacher: Any = None
) -> PriorTargets:
    assignment = assign.assign(truth, layout, AssignConfig(kind=kind))
    return PriorTargets(
        priors=layout.boxes,
        boxes=encode.matched_boxes(truth, assignment),
        labels=encode.matched_labels(truth, assignment),
        is_positive=assignment.is_positive,
        weight=(~assignment.is_ignored).float(),
        teacher=teacher,
    )


def rows(outputs: int, batch: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, len(PRIORS.boxes), outputs, generator=generator).to(dtype).requires_grad_()


def num_outputs(kind: str) -> int:
    return NUM_CLASSES + (kind == "softmax")


def decoded(deltas: Tensor) -> Tensor:
    return codec.decode(deltas.detach().float(), PRIORS.boxes, STD)


def sums(
    loss: HeadLoss,
    said: Tensor,
    targets: PriorTargets,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    references: Tensor | None = None,
    found: Tensor | None = None,
) -> Tensor:
    if found is None:
        found = decoded(torch.zeros_like(targets.boxes))
    return loss.sums(
        said, targets, weights, references=targets.priors if references is None else references, found=found
    )


def one_object(is_object: bool = True) -> Targets:
    return Targets(
        boxes=torch.tensor([[[20.0, 20.0, 80.0, 90.0]]]),
        labels=torch.tensor([[1]]),
        is_object=torch.tensor([[is_object]]),
        is_crowd=torch.tensor([[False]]),
    )


def teacher_targets(batch: int, outputs: int, seed: int = 5) -> TeacherTargets:
    generator = torch.Generator().manual_seed(seed)
    count = len(PRIORS.boxes)
    return TeacherTargets(
        logits=torch.randn(batch, count, outputs, generator=generator),
        deltas=torch.randn(batch, count, 4, generator=generator),
        box_weight=torch.rand(batch, count, generator=generator),
    )


EVERY_HEAD = [(CLASSES, kind) for kind in KINDS] + [(BOX, "quality"), (QUALITY, "quality")]
NAMES = [f"{head.name}, {kind}" if head is CLASSES else head.name for head, kind in EVERY_HEAD]


def outputs_of(head: HeadConfig, kind: str) -> int:
    return {"classification": num_outputs(kind), "box": 4, "quality": 1}[head.kind]


# Whatever the batch holds


@given(strategies.padded_targets(), st.sampled_from(EVERY_HEAD), st.integers(0, 2**31))
def test_every_batch_has_finite_losses_and_gradients(truth: Targets, case: Any, seed: int) -> None:
    head, kind = case
    said = rows(outputs_of(head, kind), len(truth.boxes), seed=seed)
    terms = sums(head_loss(head, classification=kind, **ALL_ON), said, targets_of(truth))
    assert terms.dtype == torch.float32
    assert terms.isfinite().all()
    assert (terms >= 0).all()
    (gradient,) = torch.autograd.grad(terms.sum(), said)
    assert gradient.isfinite().all()


@given(strategies.padded_targets(), st.sampled_from(DENSE))
def test_ignored_priors_teach_no_class_and_background_teaches_the_others(truth: Targets, kind: Classification) -> None:
    targets, said = targets_of(truth), rows(num_outputs(kind), len(truth.boxes))
    (gradient,) = torch.autograd.grad(sums(head_loss(CLASSES, classification=kind), said, targets).sum(), said)
    is_ignored = targets.weight == 0
    assert (gradient[is_ignored] == 0).all()
    assert (gradient[~is_ignored] != 0).any(-1).all()


@given(strategies.padded_targets(), st.sampled_from(["box", "quality", "categorical"]))
def test_only_positive_priors_teach_boxes_qualities_and_the_localizer(truth: Targets, which: str) -> None:
    head = {"box": BOX, "quality": QUALITY, "categorical": CLASSES}[which]
    kind: Classification = "categorical" if which == "categorical" else "quality"
    targets, said = targets_of(truth), rows(outputs_of(head, kind), len(truth.boxes))
    loss = head_loss(head, classification=kind, **ALL_ON)
    (gradient,) = torch.autograd.grad(sums(loss, said, targets).sum(), said)
    assert (gradient[~targets.is_positive] == 0).all()
    assert (gradient[targets.is_positive] != 0).any(-1).all()


@given(
    strategies.padded_targets(max_images=3), st.sampled_from(EVERY_HEAD), st.booleans(), st.integers(1, 3), st.data()
)
def test_pieces_add_up_to_the_whole(
    truth: Targets, case: Any, has_teacher: bool, step: int, data: st.DataObject
) -> None:
    head, kind = case
    batch, count = len(truth.boxes), len(PRIORS.boxes)
    cut = data.draw(st.integers(1, count - 1))
    outputs = outputs_of(head, kind)
    targets = targets_of(truth, teacher=teacher_targets(batch, num_outputs(kind)) if has_teacher else None)
    loss = head_loss(head, has_teacher, classification=kind, **ALL_ON)
    said, found = rows(outputs, batch).detach().double(), decoded(rows(4, batch, seed=1))
    whole = sums(loss, said, targets, found=found)
    total = torch.zeros_like(whole)
    for first in range(0, batch, step):
        for part in (slice(0, cut), slice(cut, count)):
            images = slice(first, first + step)
            piece = targets.piece(images, part)
            total += sums(loss, said[images, part], piece, found=found[images, part])
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-6)


# Against other code and plain formulas


@settings(max_examples=50)
@given(strategies.padded_targets(max_rows=3, max_images=1, crowds=False), st.integers(0, 2**31))
def test_is_torchvisions_retinanet_loss_for_one_image(truth: Targets, seed: int) -> None:
    targets = targets_of(truth, "max_iou")
    logits, deltas = rows(NUM_CLASSES, 1, seed=seed), rows(4, 1, seed=seed + 1)
    unit = (1.0, 1.0, 1.0, 1.0)
    count = targets.is_positive.sum().clamp(min=1)
    ours = sums(head_loss(CLASSES, classification="focal"), logits, targets)[0] / count
    of_box = sums(head_loss(BOX, delta_std=unit, smooth_l1_beta=0.0), deltas, targets, (1.0, 0.0))[0] / count

    objects = truth.is_object[0].nonzero()[:, 0]
    labelled = [{"boxes": truth.boxes[0, objects], "labels": truth.labels[0, objects]}]
    if len(objects) > 0:
        overlaps = torchvision.ops.box_iou(labelled[0]["boxes"], PRIORS.boxes)
        assume((overlaps.amax(1) > 0).all())
        matcher = torchvision.models.detection._utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
        matches = [matcher(overlaps)]
    else:
        matches = [torch.full((len(PRIORS.boxes),), -1)]
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    classes = RetinaNetClassificationHead(4, 1, NUM_CLASSES).compute_loss(labelled, outputs, matches)
    offsets = RetinaNetRegressionHead(4, 1).compute_loss(labelled, outputs, [PRIORS.boxes], matches)
    torch.testing.assert_close(ours, classes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_box, offsets, rtol=1e-4, atol=1e-4)


def test_the_perfect_prediction_costs_nothing() -> None:
    targets = targets_of(one_object())
    deltas = codec.encode(targets.boxes, PRIORS.boxes, STD)
    logits = torch.full((1, len(PRIORS.boxes), NUM_CLASSES), -20.0)
    logits[..., 1] = torch.where(targets.is_positive, 20.0, -20.0)
    for kind in ("sigmoid", "focal", "quality"):
        terms = sums(head_loss(CLASSES, classification=kind), logits, targets, found=decoded(deltas))
        assert terms.sum().item() == pytest.approx(0, abs=1e-3)
    assert sums(head_loss(BOX, **ALL_ON), deltas, targets).sum().item() == pytest.approx(0, abs=1e-3)
    sure = torch.full((1, len(PRIORS.boxes), 1), 20.0)
    assert sums(head_loss(QUALITY), sure, targets, found=decoded(deltas)).item() == pytest.approx(0, abs=1e-3)


def test_background_alone_is_the_plain_entropy() -> None:
    logits = rows(NUM_CLASSES, 1)
    terms = sums(head_loss(CLASSES, classification="sigmoid"), logits, targets_of(one_object(is_object=False)))
    torch.testing.assert_close(terms[0], F.softplus(logits).sum())


def overlap_with_object(found: Tensor) -> Tensor:
    return boxes.iou(found, one_object().boxes.expand(1, len(PRIORS.boxes), 4))


def test_the_quality_target_of_a_class_is_the_iou_of_the_found_box() -> None:
    targets, logits, found = targets_of(one_object()), rows(NUM_CLASSES, 1), decoded(rows(4, 1, seed=1))
    target = torch.zeros(1, len(PRIORS.boxes), NUM_CLASSES)
    target[..., 1] = torch.where(targets.is_positive, overlap_with_object(found), 0.0)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    expected = ((target - logits.sigmoid()).abs() ** 2 * entropy).sum()
    torch.testing.assert_close(sums(head_loss(CLASSES), logits, targets, found=found)[0], expected)


def test_the_quality_heads_loss_is_the_entropy_against_the_iou_of_positives() -> None:
    targets, said, found = targets_of(one_object()), rows(1, 1), decoded(rows(4, 1, seed=1))
    overlap, mine = overlap_with_object(found)[targets.is_positive], said[..., 0][targets.is_positive].sigmoid()
    expected = -(overlap * mine.log() + (1 - overlap) * (1 - mine).log()).sum()
    torch.testing.assert_close(sums(head_loss(QUALITY), said, targets, found=found)[0], expected)


def test_categorical_is_the_cross_entropy_of_positives() -> None:
    targets, logits = targets_of(one_object()), rows(NUM_CLASSES, 1)
    positive = logits[targets.is_positive]
    expected = F.cross_entropy(positive, torch.ones(len(positive), dtype=torch.int64), reduction="sum")
    found = sums(head_loss(CLASSES, classification="categorical"), logits, targets)
    torch.testing.assert_close(found[0], expected)


def test_a_refining_box_head_counts_from_the_boxes_it_refines() -> None:
    """Offsets that lead from those boxes to the object cost nothing; the same offsets from the priors do."""
    targets = targets_of(one_object())
    refined = decoded(0.3 * rows(4, 1, seed=1))
    deltas = codec.encode(targets.boxes, refined, STD)
    loss = head_loss(BOX, **ALL_ON)
    assert sums(loss, deltas, targets, references=refined).sum().item() == pytest.approx(0, abs=1e-3)
    from_priors = sums(loss, deltas, targets)
    assert (from_priors > 0.05).all()


# Half precision, rubbish, gradients, and no waiting


@pytest.mark.parametrize(("head", "kind"), EVERY_HEAD, ids=NAMES)
def test_half_precision_heads_are_judged_in_float32(head: HeadConfig, kind: Classification) -> None:
    half = rows(outputs_of(head, kind), 1, dtype=torch.bfloat16)
    loss, targets = head_loss(head, classification=kind, **ALL_ON), targets_of(one_object())
    found = sums(loss, half, targets)
    assert found.dtype == torch.float32
    assert torch.equal(found, sums(loss, half.float(), targets))


@pytest.mark.parametrize("rubbish", [1e30, float("inf"), float("nan")])
def test_rubbish_offsets_of_background_priors_do_no_harm(rubbish: float) -> None:
    targets, clean, loss = targets_of(one_object()), rows(4, 1), head_loss(BOX, **ALL_ON)
    dirty = torch.where(targets.is_positive[..., None], clean.detach(), rubbish).requires_grad_()
    terms = sums(loss, dirty, targets)
    torch.testing.assert_close(terms, sums(loss, clean, targets))
    (gradient,) = torch.autograd.grad(terms.sum(), dirty)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("head", "kind"), EVERY_HEAD, ids=NAMES)
def test_gradient_of_the_terms(head: HeadConfig, kind: Classification) -> None:
    said = rows(outputs_of(head, kind), 1, dtype=torch.float64)
    targets, loss = targets_of(one_object()), head_loss(head, classification=kind, **ALL_ON)
    assert torch.autograd.gradcheck(lambda x: sums(loss, x, targets), said)


@pytest.mark.parametrize(("head", "kind"), EVERY_HEAD, ids=NAMES)
@pytest.mark.parametrize("rule", ["atss", "max_iou"])
@pytest.mark.parametrize("num_rows", [0, 3])
def test_nothing_waits_for_the_device(
    head: HeadConfig, kind: Classification, rule: Literal["atss", "max_iou"], num_rows: int
) -> None:
    """A meta tensor has no values: reading one, a shape that depends on one, or mixing in a CPU tensor raises."""
    with torch.device("meta"):
        truth = Targets(
            boxes=torch.empty(2, num_rows, 4),
            labels=torch.empty(2, num_rows, dtype=torch.int64),
            is_object=torch.empty(2, num_rows, dtype=torch.bool),
            is_crowd=torch.empty(2, num_rows, dtype=torch.bool),
        )
        said = torch.empty(2, len(PRIORS.boxes), outputs_of(head, kind), requires_grad=True)
    layout = Priors(boxes=PRIORS.boxes.to("meta"), level_sizes=PRIORS.level_sizes)
    targets = targets_of(truth, rule, layout)
    found = torch.empty(2, len(PRIORS.boxes), 4, device="meta")
    terms = sums(head_loss(head, classification=kind, **ALL_ON), said, targets, found=found)
    (gradient,) = torch.autograd.grad(terms.sum(), said)
    assert gradient.is_meta


# Weights


def assert_off_at_zero(loss: HeadLoss, said: Tensor, targets: PriorTargets) -> None:
    """A term without weight is zero, takes no part in the gradient, and leaves the others as they are."""
    everything = sums(loss, said, targets)
    for i in range(len(loss.terms)):
        weights = tuple(float(i != j) for j in range(len(loss.terms)))
        terms = sums(loss, said, targets, weights)
        assert everything[i] > 0
        expected = everything.detach().clone()
        expected[i] = 0
        assert torch.equal(terms, expected)
    nothing = sums(loss, said, targets, (0.0,) * len(loss.terms))
    assert not nothing.requires_grad


@pytest.mark.parametrize(("head", "kind"), EVERY_HEAD, ids=NAMES)
@pytest.mark.parametrize("has_teacher", [False, True])
def test_a_term_without_weight_is_zero_and_not_computed(
    head: HeadConfig, kind: Classification, has_teacher: bool
) -> None:
    teacher = teacher_targets(1, num_outputs(kind)) if has_teacher else None
    loss = head_loss(head, has_teacher, classification=kind, **ALL_ON)
    assert_off_at_zero(loss, rows(outputs_of(head, kind), 1), targets_of(one_object(), teacher=teacher))


@pytest.mark.parametrize(
    ("head", "has_teacher", "terms", "weights"),
    [
        (CLASSES, False, ("cross_entropy",), (2.0,)),
        (CLASSES, True, ("cross_entropy", "logit"), (2.0, 7.0)),
        (BOX, False, ("smooth_l1", "giou"), (3.0, 4.0)),
        (BOX, True, ("smooth_l1", "giou", "logit"), (3.0, 4.0, 8.0)),
        (QUALITY, False, ("cross_entropy",), (5.0,)),
        (QUALITY, True, ("cross_entropy",), (5.0,)),
        (HeadConfig(name="extra", kind="custom", factory="m:C"), True, ("loss",), (1.0,)),
    ],
)
@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_base_weights_are_those_of_the_losses_times_the_heads(
    head: HeadConfig, has_teacher: bool, terms: tuple[str, ...], weights: tuple[float, ...], weight: float
) -> None:
    weighed = HeadConfig(name=head.name, kind=head.kind, weight=weight, factory=head.factory)
    config = {"classification_weight": 2.0, "smooth_l1_weight": 3.0, "giou_weight": 4.0, "quality_weight": 5.0}
    loss = head_loss(weighed, has_teacher, **config)
    assert loss.terms == tuple(f"{head.name}.{term}" for term in terms)
    against_teacher = DistillConfig(class_logit_weight=7.0, box_logit_weight=8.0)
    assert loss.base_weights(against_teacher) == pytest.approx([weight * w for w in weights])


# A teacher and a head of one's own


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_term_against_a_teacher(kind: Classification) -> None:
    teacher, logits = teacher_targets(1, num_outputs(kind)), rows(num_outputs(kind), 1)
    targets = targets_of(one_object(), teacher=teacher)
    softmax = kind in ("softmax", "categorical")
    expected = distill.class_logits(logits, teacher.logits, targets.weight, softmax=softmax)
    found = sums(head_loss(CLASSES, has_teacher=True, classification=kind), logits, targets, (0.0, 1.0))
    assert torch.equal(found, torch.stack((torch.zeros(()), expected)))


def test_the_box_term_against_a_teacher_speaks_of_every_prior_it_is_sure_of() -> None:
    teacher, deltas = teacher_targets(1, NUM_CLASSES), rows(4, 1)
    targets = targets_of(one_object(is_object=False), teacher=teacher)
    loss = head_loss(BOX, has_teacher=True, smooth_l1_beta=0.5)
    distance = F.smooth_l1_loss(deltas, teacher.deltas, reduction="none", beta=0.5).sum(-1)
    found = sums(loss, deltas, targets, (1.0, 1.0, 1.0))
    torch.testing.assert_close(found[2], (distance * teacher.box_weight).sum())
    assert torch.equal(found[:2], torch.zeros(2))


def test_a_refining_head_under_a_teacher_has_no_term_against_it() -> None:
    """It was built without: its offsets count from other references than the teacher's do."""
    targets = targets_of(one_object(), teacher=teacher_targets(1, NUM_CLASSES))
    loss = head_loss(BOX, has_teacher=False, **ALL_ON)
    terms = sums(loss, rows(4, 1), targets, (1.0, 1.0), references=decoded(0.1 * rows(4, 1, seed=1)))
    assert len(terms) == len(loss.terms) == 2


class Ones(CustomHead):
    """Wants every row to be the overlap of the found box with its object, and remembers that it was asked."""

    calls = 0

    def loss(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        type(self).calls += 1
        return (rows[..., 0] - boxes.iou(found, targets.boxes)).abs().sum()


def test_a_custom_head_brings_its_own_loss() -> None:
    shape = HeadShape(in_channels=8, upstream_channels=0, priors_per_cell=1)
    head = HeadConfig(name="ones", kind="custom", factory=f"{__name__}:Ones")
    custom = Ones(shape, TowerConfig(depth=0, width=8))
    loss = HeadLoss(head=head, config=LossConfig(), delta_std=STD, has_teacher=False, custom=custom)
    targets, said, found = targets_of(one_object()), rows(1, 1, dtype=torch.bfloat16), decoded(rows(4, 1, seed=1))
    Ones.calls = 0
    assert sums(loss, said, targets, (0.0,), found=found).item() == 0
    assert Ones.calls == 0
    expected = (said.float()[..., 0] - boxes.iou(found, targets.boxes)).abs().sum()
    assert torch.equal(sums(loss, said, targets, (1.0,), found=found)[0], expected)
