import math
from collections.abc import Sequence

import pytest
import torch

from detector.config import DecodeConfig
from detector.errors import ConfigError
from detector.predict import ensemble
from detector.predict.ensemble import Fusion
from detector.types import Detections, LabelMap

PETS = LabelMap(names=("cat", "dog"), category_ids=(17, 18))
MORE = LabelMap(names=("bird", "dog"), category_ids=(16, 18))
BOX = (0.0, 0.0, 8.0, 8.0)
FAR = (100.0, 100.0, 108.0, 108.0)
VOTES = DecodeConfig(nms_iou=0.6, voting=0.025)


def detections(label_map: LabelMap, *rows: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        boxes=torch.tensor([box for _, _, box in rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
        labels=torch.tensor([label_map.names.index(name) for name, _, _ in rows], dtype=torch.int64),
        names=tuple(name for name, _, _ in rows),
    )


def combined(*found: tuple[LabelMap, Detections], decodes: Sequence[DecodeConfig] = (VOTES,)) -> Detections:
    maps = [label_map for label_map, _ in found]
    merged = ensemble.merge_label_maps(maps, [f"{number}.safetensors" for number in range(len(maps))])
    return Fusion.of(maps, merged, decodes).combine([one for _, one in found])


def rows(found: Detections) -> list[tuple[str, float]]:
    return list(zip(found.names, found.scores.tolist(), strict=True))


def test_classes_are_united_by_name_in_order_of_first_appearance() -> None:
    assert ensemble.merge_label_maps([PETS, MORE], ["a", "b"]) == LabelMap(
        names=("cat", "dog", "bird"), category_ids=(17, 18, 16)
    )
    assert ensemble.merge_label_maps([MORE, PETS], ["b", "a"]).names == ("bird", "dog", "cat")


def test_one_map_merges_to_itself() -> None:
    assert ensemble.merge_label_maps([MORE], ["b"]) == MORE


def test_models_without_a_class_in_common_are_united_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    other = LabelMap(names=("tree",), category_ids=(3,))
    assert ensemble.merge_label_maps([PETS, other], ["a", "b"]).names == ("cat", "dog", "tree")
    assert capfd.readouterr() == ("", "")


def test_a_known_name_keeps_the_id_of_the_first_map() -> None:
    # The second map's id of "dog" is the first map's of "cat", but is not used: nothing stands twice.
    other = LabelMap(names=("dog",), category_ids=(17,))
    assert ensemble.merge_label_maps([PETS, other], ["a", "b"]) == PETS


def test_an_id_that_would_stand_twice_is_refused() -> None:
    other = LabelMap(names=("dog", "horse"), category_ids=(1, 17))
    with pytest.raises(ConfigError) as caught:
        ensemble.merge_label_maps([MORE, PETS, other], ["m.safetensors", "a.safetensors", "b.safetensors"])
    message = str(caught.value)
    assert message.startswith(
        "b.safetensors: category id 17 is class 'horse', but in a.safetensors it is 'cat'; leave one of"
    )
    assert "\n" not in message


def test_the_file_named_is_the_one_that_the_id_came_from() -> None:
    third = LabelMap(names=("fish",), category_ids=(18,))
    with pytest.raises(ConfigError, match=r"^c: category id 18 is class 'fish', but in a it is 'dog'"):
        ensemble.merge_label_maps([PETS, MORE, third], ["a", "b", "c"])


def test_classes_meet_by_name_whatever_their_labels() -> None:
    # "dog" is label 1 of both maps, and label 0 of the third.
    third = LabelMap(names=("dog", "cat"), category_ids=(18, 17))
    found = combined(
        (PETS, detections(PETS, ("dog", 0.75, BOX))),
        (third, detections(third, ("dog", 0.25, BOX))),
    )
    assert rows(found) == [("dog", 0.5)]
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [list(BOX)]


def test_different_classes_in_one_place_stay_apart() -> None:
    # Both are label 0 at home.
    found = combined(
        (PETS, detections(PETS, ("cat", 0.75, BOX))),
        (MORE, detections(MORE, ("bird", 0.5, BOX))),
    )
    assert rows(found) == [("cat", 0.75), ("bird", 0.5)]
    assert found.labels.tolist() == [0, 2]


def test_only_models_that_know_a_class_count() -> None:
    found = combined(
        (PETS, detections(PETS, ("cat", 0.75, BOX), ("dog", 0.75, FAR))),
        (MORE, detections(MORE)),
    )
    # The second model could have found the dog and did not; of cats it knows nothing.
    assert rows(found) == [("cat", 0.75), ("dog", 0.375)]


def test_best_first_across_classes_that_differ_in_models() -> None:
    found = combined(
        (PETS, detections(PETS, ("dog", 0.875, BOX), ("cat", 0.5, BOX), ("cat", 0.25, FAR))),
        (MORE, detections(MORE, ("dog", 0.875, BOX), ("bird", 0.75, FAR))),
    )
    assert rows(found) == [("dog", 0.875), ("bird", 0.75), ("cat", 0.5), ("cat", 0.25)]
    assert found.boxes.tolist() == [list(BOX), list(FAR), list(BOX), list(FAR)]


def test_no_more_than_asked_for_and_the_best_of_them() -> None:
    one = detections(PETS, ("cat", 0.5, BOX), ("dog", 0.75, BOX), ("cat", 0.25, FAR))
    found = combined((PETS, one), decodes=[DecodeConfig(max_detections=2)])
    assert rows(found) == [("dog", 0.75), ("cat", 0.5)]
    assert len(found.boxes) == len(found.labels) == len(found) == 2


def test_models_that_agree_on_all_that_can_be_sure_stay_sure() -> None:
    third = LabelMap(names=("tree",), category_ids=(3,))
    sure = detections(PETS, ("cat", 1.0, BOX))
    found = combined((PETS, sure), (PETS, sure), (third, detections(third)))
    assert rows(found) == [("cat", 1.0)]


def test_what_one_model_says_twice_counts_once() -> None:
    # 0.8 of the box, so the second is suppressed by the first; a third box, of IoU 0.53 with it, is not.
    inside, beside = (0.0, 0.0, 8.0, 6.4), (0.0, 2.5, 8.0, 10.5)
    first = detections(PETS, ("cat", 0.75, BOX), ("cat", 0.5, inside), ("cat", 0.25, beside))
    found = combined((PETS, first), (PETS, detections(PETS, ("cat", 0.25, BOX))))
    assert rows(found) == [("cat", 0.5), ("cat", 0.125)]


def test_a_box_is_drawn_towards_those_around_it_by_their_scores() -> None:
    moved = (1.0, 0.0, 9.0, 8.0)
    found = combined((PETS, detections(PETS, ("cat", 0.75, BOX))), (PETS, detections(PETS, ("cat", 0.25, moved))))
    nearness = math.exp(-((1 - 7 / 9) ** 2) / VOTES.voting)
    share = 0.25 * nearness / (0.75 + 0.25 * nearness)
    assert found.boxes.tolist() == [pytest.approx([share, 0, 8 + share, 8], abs=1e-5)]
    assert rows(found) == [("cat", 0.5)]


def test_boxes_stay_where_the_settings_have_no_votes() -> None:
    moved = (1.0, 0.0, 9.0, 8.0)
    one, other = detections(PETS, ("cat", 0.75, BOX)), detections(PETS, ("cat", 0.25, moved))
    found = combined((PETS, one), (PETS, other), decodes=[DecodeConfig(voting=0.0)])
    assert found.boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize(("thresholds", "count"), [((0.6, 0.6), 1), ((0.6, 0.9), 2), ((0.9, 0.6), 2), ((0.9, 0.9), 2)])
def test_one_model_for_crowds_keeps_the_crowds_of_all(thresholds: tuple[float, float], count: int) -> None:
    inside = (0.0, 0.0, 8.0, 6.4)  # IoU 0.8
    one, other = detections(PETS, ("cat", 0.75, BOX)), detections(PETS, ("cat", 0.5, inside))
    found = combined((PETS, one), (PETS, other), decodes=[DecodeConfig(nms_iou=iou) for iou in thresholds])
    assert len(found) == count
    # Beside a box that was kept on its own, what the other model says of it is not counted twice.
    assert found.scores.sum().item() == pytest.approx((0.75 + 0.5) / 2)


def test_the_order_of_the_models_changes_nothing() -> None:
    one = detections(PETS, ("cat", 0.75, BOX), ("dog", 0.5, FAR))
    other = detections(PETS, ("cat", 0.5, (1.0, 0.0, 9.0, 8.0)))
    there, back = combined((PETS, one), (PETS, other)), combined((PETS, other), (PETS, one))
    assert rows(there) == rows(back)
    assert torch.allclose(there.boxes, back.boxes)


def test_nothing_found_by_anyone() -> None:
    found = combined((PETS, detections(PETS)), (MORE, detections(MORE)))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64


def test_one_result_for_each_model() -> None:
    with pytest.raises(ValueError, match="zip"):
        Fusion.of([PETS, MORE], PETS, [VOTES]).combine([detections(PETS)])
