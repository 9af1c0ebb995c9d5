"""Where a network computes, and in what."""

from pathlib import Path

import pytest
import torch

from captionkit.errors import UsageError
from captionkit.model import device as devices
from captionkit.model.device import explain_dtype, fast_bfloat16, pick_device, pick_dtype

CPU = torch.device("cpu")


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
        pick_device(device)


def test_number_formats_by_name() -> None:
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cuda")) == torch.float16
    with pytest.raises(UsageError, match="'int8' is not one of auto, float32, bfloat16, float16"):
        pick_dtype("int8", CPU)


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(
        UsageError, match=r"float16.* is not for CPUs, .* several times more slowly.* bfloat16 or float32"
    ):
        pick_dtype("float16", CPU)


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, "the CPU has AVX512-BF16"),  # AMD Zen 4 and 5, Cooper Lake
        ({"amx_tile": True, "amx_bf16": True, "avx512_bf16": True}, "the CPU has AMX"),
        ({"neon": True, "bf16": True, "architecture": "aarch64"}, "the CPU has Arm's BF16"),
        ({"sve_bf16": True}, "the CPU has Arm's BF16"),
    ],
)
def test_auto_is_bfloat16_where_the_chip_has_it(
    features: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features, raising=False)
    assert explain_dtype("auto", CPU) == (torch.bfloat16, reason)
    assert fast_bfloat16(CPU)


@pytest.mark.parametrize(
    "features",
    [{"avx2": True}, {"avx512_f": True, "avx512_bf16": False, "amx_fp16": True}, {"neon": True, "fp16_arith": True}],
)
def test_auto_is_float32_on_other_cpus(features: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features, raising=False)
    reason = "the CPU has none of AMX, AVX512-BF16, Arm's BF16"
    assert explain_dtype("auto", CPU) == (torch.float32, reason)
    assert not fast_bfloat16(CPU)


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", torch.bfloat16),
        ("Features\t: fp asimd svebf16 bf16\n", torch.bfloat16),
        ("flags\t\t: fpu avx2\n", torch.float32),
        ("model name\t: avx512_bf16\n", torch.float32),
    ],
)
def test_linux_is_asked_where_pytorch_does_not_tell(
    line: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    monkeypatch.setattr(devices, "_CPUINFO", str(tmp_path / "cpuinfo"))
    assert pick_dtype("auto", CPU) == torch.float32  # no such file, as outside Linux
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}")
    assert pick_dtype("auto", CPU) == dtype


def test_the_real_chip_gives_an_answer() -> None:
    dtype, reason = explain_dtype("auto", CPU)
    assert dtype in (torch.float32, torch.bfloat16)
    assert reason.startswith("the CPU has")
