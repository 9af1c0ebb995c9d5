"""A captioner as three ONNX networks, which ONNX Runtime computes without PyTorch.

    encoder.onnx    pixels (N, size, size, 3) uint8 → features
    start.onnx      features → the decoder's state, all its tensors
    step.onnx       tokens (N,) int64 and the state → logprobs (N, V), and of the state what changed
    captioner.json  words, markers, the names of the state's tensors, how images are resized

Any number of images goes through at once; the first axis of every tensor is the row, so that a search can reorder rows.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from captionkit.errors import UsageError
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import Decoder, State
from captionkit.vocabulary import BOS, EOS, PAD, UNK

FORMAT: Final = 1
"""The version of the layout of `captioner.json`."""
STEPS: Final = 6
"""Steps of greedy search in which ONNX Runtime is compared with PyTorch."""
TOLERANCE: Final = 1e-3
"""The largest difference of log-probabilities that may come of rounding."""
_EXAMPLES: Final = 3


class _Start(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        state = self.decoder.start(features)
        return (*state.carry.values(), *state.memory.values())


class _Step(nn.Module):
    def __init__(self, decoder: Decoder, carry: Sequence[str], memory: Sequence[str]) -> None:
        super().__init__()
        self.decoder, self.carry, self.memory = decoder, tuple(carry), tuple(memory)

    def forward(self, tokens_N: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        count = len(self.carry)
        before = State(
            dict(zip(self.carry, state[:count], strict=True)), dict(zip(self.memory, state[count:], strict=True))
        )
        logits_NV, after = self.decoder.step(tokens_N, before)
        return (torch.log_softmax(logits_NV, dim=-1), *(after.carry[name] for name in self.carry))


def to_onnx(captioner: Captioner) -> dict[str, bytes]:
    """The files by name.

    Args:
        captioner: on the CPU, in fp32.

    Raises:
        UsageError: onnx and its companions are not installed, or a part is too large for one file.
    """
    _require()
    decoder, size = captioner.decoder, captioner.preprocessing.size
    pixels = torch.zeros(_EXAMPLES, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        features = captioner.encoder(pixels)
        state = decoder.start(features)
    carry, memory = list(state.carry), list(state.memory)
    # Copies: of one tensor in two places the exporter would make one input.
    tensors = [tensor.clone() for tensor in (*state.carry.values(), *state.memory.values())]
    rows = torch.export.Dim("rows")
    first = {0: rows}
    tokens = torch.full((_EXAMPLES,), BOS, dtype=torch.int64)
    description = {
        "format": FORMAT,
        "note": captioner.note,
        "model": captioner.fingerprint,
        "image": captioner.preprocessing.to_json(),
        "words": captioner.vocabulary.words,
        "start": BOS,
        "end": EOS,
        "banned": [PAD, BOS, UNK],
        "max_steps": decoder.max_steps,
        "carry": carry,
        "state": [*carry, *memory],
    }
    return {
        "encoder.onnx": _export(captioner.encoder, (pixels,), (first,), ["pixels"], ["features"]),
        "start.onnx": _export(_Start(decoder), (features,), (first,), ["features"], [*carry, *memory]),
        "step.onnx": _export(
            _Step(decoder, carry, memory),
            (tokens, *tensors),
            (first, tuple(first for _ in tensors)),
            ["tokens", *carry, *memory],
            ["logprobs", *(f"next_{name}" for name in carry)],
        ),
        "captioner.json": (json.dumps(description, ensure_ascii=False, indent=1) + "\n").encode(),
    }


def difference(captioner: Captioner, files: dict[str, bytes]) -> float:
    """The largest difference between log-probabilities by ONNX Runtime and by PyTorch, along greedy captions of random
    pixels.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    _require()
    import onnxruntime

    sessions = {
        name: onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for name, data in files.items()
        if name.endswith(".onnx")
    }
    about = json.loads(files["captioner.json"])
    size = captioner.preprocessing.size
    # Another number of rows than the networks were made with.
    pixels = np.random.default_rng(0).integers(0, 256, (_EXAMPLES - 1, size, size, 3), dtype=np.uint8)
    [features] = sessions["encoder.onnx"].run(None, {"pixels": pixels})
    state = dict(zip(about["state"], sessions["start.onnx"].run(None, {"features": features}), strict=True))
    worst = 0.0
    tokens = np.full(len(pixels), BOS, np.int64)
    with torch.inference_mode():
        own = captioner.decoder.start(captioner.encoder(torch.from_numpy(pixels)))
        for _ in range(min(STEPS, captioner.decoder.max_steps or STEPS)):
            logprobs, *changed = sessions["step.onnx"].run(None, {"tokens": tokens, **state})
            state |= dict(zip(about["carry"], changed, strict=True))
            logits, own = captioner.decoder.step(torch.from_numpy(tokens), own)
            expected = torch.log_softmax(logits, dim=-1).numpy()
            possible = expected > -np.inf
            if not np.array_equal(possible, logprobs > -np.inf):
                return float("inf")
            worst = max(worst, float(np.abs(logprobs[possible] - expected[possible]).max()))
            tokens = expected.argmax(axis=1)
    return worst


def _export(module: nn.Module, args: tuple[Tensor, ...], shapes: Any, inputs: list[str], outputs: list[str]) -> bytes:
    """A network as one ONNX file, for any number of rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts, which nobody can follow
        # Strict: else `len(tensor)` would be a constant.
        program = torch.export.export(module.eval(), args, dynamic_shapes=shapes, strict=True)
        made = torch.onnx.export(program, (), input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
    assert made is not None
    network = made.model_proto
    for node in [*network.graph.node, *(node for function in network.functions for node in function.node)]:
        del node.metadata_props[:]  # lines of source code, with the paths of this machine
        node.doc_string = ""
    for value in (*network.graph.value_info, *network.graph.input, *network.graph.output, *network.graph.initializer):
        del value.metadata_props[:]
    del network.graph.metadata_props[:], network.metadata_props[:]
    try:
        data: bytes = network.SerializeToString()
    except ValueError as err:
        raise UsageError(f"a part of this captioner is too large for one ONNX file of 2 GB: {err}") from err
    return data


def _require() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--to onnx needs {', '.join(missing)}: pip install 'captionkit[onnx]'")
