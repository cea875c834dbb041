import json
from dataclasses import replace

from detector.evaluate import text
from detector.evaluate.coco import ClassScore, Interval, Scores

SCORES = Scores(
    ap=0.5,
    ap50=0.75,
    ap75=0.25,
    ap_small=-1.0,
    ap_medium=0.1,
    ap_large=1.0,
    ar_1=0.11,
    ar_10=0.12,
    ar_100=0.13,
    ar_small=-1.0,
    ar_medium=0.14,
    ar_large=0.15,
    per_class=(
        ClassScore(name="red cell", category_id=4, ap=0.5, ap50=0.6789, num_objects=12),
        ClassScore(name="x", category_id=9, ap=-1.0, ap50=-1.0, num_objects=0),
    ),
    num_images=3,
    num_detections=45,
    num_tied=0,
    notes=("1 annotation was left out",),
)


def test_table() -> None:
    assert text.table(SCORES).splitlines() == [
        "AP, IoU 0.50 to 0.95    0.500",
        "AP, IoU 0.50            0.750",
        "AP, IoU 0.75            0.250",
        "AP, small objects           -",
        "AP, medium objects      0.100",
        "AP, large objects       1.000",
        "recall, 1 detection     0.110",
        "recall, 10 detections   0.120",
        "recall, 100 detections  0.130",
        "recall, small objects       -",
        "recall, medium objects  0.140",
        "recall, large objects   0.150",
        "",
        "class        AP   AP50  objects",
        "red cell  0.500  0.679       12",
        "x             -      -        0",
        "",
        "45 detections on 3 images",
        "note: 1 annotation was left out",
    ]


def test_intervals_and_ties_have_their_place() -> None:
    intervals = [Interval(low=0.4, high=0.6), Interval(low=0.7, high=0.8), Interval(low=0.2, high=0.3)]
    lines = text.table(replace(SCORES, num_tied=7), intervals).splitlines()
    assert lines[:4] == [
        "                        score   95 % interval over images",
        "AP, IoU 0.50 to 0.95    0.500   0.400 to 0.600",
        "AP, IoU 0.50            0.750   0.700 to 0.800",
        "AP, IoU 0.75            0.250   0.200 to 0.300",
    ]
    assert lines[-2] == "7 of them share their score with another of the class; their order decides"
    assert text.as_json(SCORES, intervals)["intervals"] == {"ap": [0.4, 0.6], "ap50": [0.7, 0.8], "ap75": [0.2, 0.3]}


def test_a_class_name_cannot_steer_the_terminal() -> None:
    evil = replace(SCORES.per_class[0], name="\x1b[2J\nAP 1.000\u202e")
    lines = text.table(replace(SCORES, per_class=(evil,))).splitlines()
    assert len(lines) == 18
    assert all(line.isprintable() for line in lines)
    noted = text.table(replace(SCORES, per_class=(evil,), notes=(*SCORES.notes, evil.name))).splitlines()
    assert [line for line in noted if line not in lines] == [r"note: \x1b[2J\nAP 1.000\u202e"]


def test_json_keeps_every_digit() -> None:
    scores = replace(SCORES, ap=0.1 + 0.2)
    tree = json.loads(json.dumps(text.as_json(scores), allow_nan=False))
    assert tree["ap"] == 0.1 + 0.2
    assert tree["ap_small"] == -1
    assert tree["per_class"][0] == {
        "name": "red cell",
        "category_id": 4,
        "ap": 0.5,
        "ap50": 0.6789,
        "num_objects": 12,
    }
    assert (tree["num_images"], tree["notes"]) == (3, ["1 annotation was left out"])
