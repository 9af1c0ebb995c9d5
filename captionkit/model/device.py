"""The device that a network computes on, and its number format."""

from pathlib import Path
from typing import Final

import torch

from captionkit.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats of the network, by name."""
BFLOAT16_FEATURES: Final = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "sve_bf16": "Arm's BF16",
    "bf16": "Arm's BF16",
    "svebf16": "Arm's BF16",
}
"""Instructions with which a CPU is faster in bfloat16 than in float32, by the names of PyTorch and of Linux: Intel from
Cooper Lake on (AMX from Sapphire Rapids on), AMD from Zen 4 on, Arm from Neoverse V1 and N2 on."""
_CPUINFO = "/proc/cpuinfo"


def pick_device(device: str) -> torch.device:
    """A device by torch's name for it, or "auto": a GPU where there is one.

    Raises:
        UsageError: the device cannot be used here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as err:  # torch raises AssertionError where it was built without CUDA
        raise UsageError(f"device {device!r} cannot be used: {str(err).splitlines()[0]}") from err


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """A number format by its name, or "auto": bfloat16 where the device computes it fast, else float32.

    Raises:
        UsageError: no number format has this name, or it is float16 on a CPU.
    """
    return explain_dtype(dtype, device)[0]


def explain_dtype(dtype: str, device: torch.device) -> tuple[torch.dtype, str]:
    """As `pick_dtype`, with the reason in a few words, for the log."""
    if dtype == "auto":
        return _auto_dtype(device)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise UsageError(
            "dtype 'float16' is not for CPUs, which compute it several times more slowly than float32; "
            "leave it out (auto), or take bfloat16 or float32"
        )
    return DTYPES[dtype], "as asked"


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 faster than in float32."""
    return _auto_dtype(device)[0] == torch.bfloat16


def _auto_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU has it"
        return torch.float32, "the GPU has no bfloat16"
    if device.type == "cpu":
        features = _cpu_features()
        for feature, name in BFLOAT16_FEATURES.items():
            if feature in features:
                return torch.bfloat16, f"the CPU has {name}"
        return torch.float32, f"the CPU has none of {', '.join(dict.fromkeys(BFLOAT16_FEATURES.values()))}"
    return torch.float32, f"nothing is known of {device.type}"


def _cpu_features() -> set[str]:
    """What the chip has, by PyTorch's names and Linux's, which are the same for what is asked here.

    Not every PyTorch that is supported tells; then there is Linux's own list.
    """
    if tell := getattr(torch.cpu, "get_capabilities", None):
        return {name for name, value in tell().items() if value is True}
    try:
        lines = Path(_CPUINFO).read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {feature for line in lines if line.lower().startswith(("flags", "features")) for feature in line.split()}
