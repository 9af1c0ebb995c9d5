"""Length and words of captions, and how many are new or told apart."""

from __future__ import annotations

import pytest

from captionkit.metrics import Usage, caption_set, measure_usage


def test_usage_by_hand() -> None:
    captions = ["A dog runs.", "a dog runs", "Two cats sit on a mat", ""]
    assert measure_usage(captions) == Usage(4, 3.0, 0, 6, 8, 0.75, None)
    known = caption_set(["a dog, runs!", "a bird"])
    assert measure_usage(captions, known).novel == 0.5


def test_without_captions_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no captions"):
        measure_usage([])
