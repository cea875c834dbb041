import pytest

import detector


def test_the_public_names() -> None:
    # A change here is a change for users: say it in CHANGELOG.md.
    assert detector.__all__ == ["Detector"]


def test_detector_is_found_lazily() -> None:
    from detector.predict.predictor import Detector

    assert detector.Detector is Detector


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'detector' has no attribute 'Detecter'"):
        _ = detector.Detecter  # type: ignore[attr-defined]
