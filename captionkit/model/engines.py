"""What computes an encoder on a CPU: PyTorch with its batch norms folded, or OpenVINO.

Measured 2026-11-30 on an Intel Xeon with AMX, one thread, CPU time of batches of 32, medians of five in turn, against
float32 as it was (benchmarks/README.md): folded bfloat16 2.8 times as fast with ResNet-50 and 2.6 times with
MobileNetV3-Large, OpenVINO in bfloat16 7.4 and 6.6 times.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from captionkit.errors import UsageError
from captionkit.model.encoders import NO_NETWORK, Encoder
from captionkit.model.encoders.fold import fold_batch_norms

Engine = Literal["auto", "torch", "openvino"]
Encode = Callable[[Tensor], Tensor]
"""Pixels uint8 (N, H, W, 3) on the encoder's device → features, as `Encoder.forward`."""

WORTH_OPENVINO: Final = 2_000
"""Images from which "auto" takes OpenVINO in a job: to convert a network that is not in the cache takes some seconds of
CPU time, which fewer images do not give back."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def engine_for(engine: Engine, images: int | None) -> Engine:
    """What a job of so many images (None: not known) asks its actors for, by the option `--engine`.

    "auto" stays "auto" where OpenVINO would pay: each actor then takes it if it is installed there.
    """
    return "torch" if engine == "auto" and images is not None and images < WORTH_OPENVINO else engine


def make_encode(
    encoder: Encoder, device: torch.device, dtype: torch.dtype, engine: Engine, key: str
) -> tuple[Encode, str]:
    """The fastest way to compute an encoder, and what it is in a few words.

    Args:
        encoder: in fp32 on the CPU, and left so where it computes on a CPU; moved to any other device.
        engine: "auto" is OpenVINO where it is installed, for CPUs; else PyTorch.
        key: names the encoder's weights and shape in the cache of converted networks: a bundle's fingerprint.

    Raises:
        UsageError: OpenVINO was asked for, and is not installed or does not compute on this device.
    """
    if engine == "openvino" and device.type != "cpu":
        raise UsageError(f"engine openvino computes on CPUs, not on {device}; leave it out (auto), or take torch")
    if engine == "openvino" and not has_openvino():
        raise UsageError("engine openvino is not installed: pip install 'captionkit[openvino]', or take torch")
    if encoder.config["name"] == NO_NETWORK:
        return encoder.to(device, dtype), "nothing"
    if engine != "torch" and device.type == "cpu" and has_openvino():
        try:
            return _openvino(encoder, dtype, key)
        except (RuntimeError, OSError, ImportError) as err:  # a network that it cannot convert, a damaged cache
            if engine == "openvino":
                raise UsageError(f"engine openvino cannot compute this encoder: {err}; take torch") from err
            return _folded(encoder, dtype), "torch, as OpenVINO failed"
    if device.type == "cpu":
        return _folded(encoder, dtype), "torch"
    return encoder.to(device, dtype), "torch"


def _folded(encoder: Encoder, dtype: torch.dtype) -> Encode:
    """PyTorch, in channels_last, the batch norms folded in fp32 before the weights are rounded."""
    folded = copy.deepcopy(encoder).eval()  # a copy of torchvision's extractor forgets that it is in eval mode
    fold_batch_norms(folded.network)
    return folded.to(dtype).to(memory_format=torch.channels_last)


def _openvino(encoder: Encoder, dtype: torch.dtype, key: str) -> tuple[Encode, str]:
    """OpenVINO, with this process's number of threads, which PyTorch was told."""
    import openvino

    path = cache_folder() / f"{hashlib.sha256(f'{key} {openvino.__version__}'.encode()).hexdigest()[:32]}"
    network = path / "encoder.xml"
    if not network.is_file():
        _convert(encoder, path)
    precision = {torch.bfloat16: "bf16"}.get(dtype, "f32")
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned to cores, the actors of a machine would all sit on its first ones.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(str(network), "CPU", config)

    def encode(pixels: Tensor) -> Tensor:
        return torch.from_numpy(compiled(pixels.numpy())[0]).to(dtype)

    return encode, f"OpenVINO {openvino.__version__.partition('-')[0]}"


def cache_folder() -> Path:
    """Where converted networks are kept: they are made again where they are missing, and the folder may be deleted."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "captionkit" / "openvino"


def _convert(encoder: Encoder, path: Path) -> None:
    """Write the encoder in OpenVINO's format into the folder `path`, which is there whole or not at all.

    By its front end, not by `openvino.convert_model`, which reports its use to Intel without asking.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = encoder.preprocessing.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        decoder = TorchScriptPythonDecoder(encoder, example_input=(example,))
    front_end: Any = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape([-1, size, size, 3])
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        openvino.save_model(model, made / "encoder.xml", compress_to_fp16=False)
        os.replace(made, path)
    except OSError:  # another process was first, and its folder is not empty
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
