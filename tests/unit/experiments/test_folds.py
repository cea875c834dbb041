"""Cross-validation: every image is held out once."""

from tests.unit.experiments import script

folds = script.load("folds")


def test_every_image_is_in_one_part() -> None:
    for count, number in ((10, 5), (200, 5), (7, 3)):
        found = folds.parts(count, number)
        assert sorted(image for part in found for image in part) == list(range(1, count + 1))
        assert max(map(len, found)) - min(map(len, found)) <= 1
        assert found == folds.parts(count, number)
