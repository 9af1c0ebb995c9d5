"""The device that a network computes on, and its number format."""

import torch

from captionkit.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats of the network, by name."""


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
        UsageError: no number format has this name.
    """
    if dtype == "auto":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Of CPUs only those with AMX are faster in it, and torch has no public function that tells.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(device.type == "cpu" and supported and supported())
