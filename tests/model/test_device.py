"""Where a network computes, and in what."""

import pytest
import torch

from captionkit.errors import UsageError
from captionkit.model.device import pick_device, pick_dtype

CPU = torch.device("cpu")


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
        pick_device(device)


def test_number_formats_by_name() -> None:
    assert pick_dtype("float16", CPU) == torch.float16
    with pytest.raises(UsageError, match="'int8' is not one of auto, float32, bfloat16, float16"):
        pick_dtype("int8", CPU)


def test_auto_is_bfloat16_only_where_it_is_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda answer=supported: answer)
        assert pick_dtype("auto", CPU) == expected
    monkeypatch.delattr("torch.cpu._is_amx_tile_supported")
    assert pick_dtype("auto", CPU) == torch.float32
