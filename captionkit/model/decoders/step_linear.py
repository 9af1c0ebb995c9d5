"""A linear layer of a recurrence, whose weight gets its gradient once for all steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Sequence:
    """What the steps of one sequence leave for the weight's gradient, last step first."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class StepLinear(nn.Linear):
    """`nn.Linear`, called once for each step.

    Autograd multiplies out and adds up a gradient of the weight's size at every step, which for the few rows of a
    batch takes longer than all else. Within `one_sequence` the steps' inputs and gradients are kept, and multiplied
    once.
    """

    _sequence: tuple[Tensor, _Sequence] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, out_features) from (…, in_features)."""
        if self._sequence is None:
            outputs: Tensor = super().forward(inputs)
            return outputs
        outputs = _Step.apply(inputs, *self._sequence)
        return outputs if self.bias is None else outputs + self.bias


@contextmanager
def one_sequence(module: nn.Module) -> Iterator[None]:
    """The steps of one sequence: what all `StepLinear` of a module are called for, in teacher forcing."""
    layers = [layer for layer in module.modules() if isinstance(layer, StepLinear)] if torch.is_grad_enabled() else []
    for layer in layers:
        sequence = _Sequence()
        layer._sequence = (_Weight.apply(layer.weight, sequence), sequence)
    try:
        yield
    finally:
        for layer in layers:
            layer._sequence = None


class _Weight(torch.autograd.Function):
    """The weight as the steps use it: in autocast's format, if any. Its backward comes after that of all steps."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sequence: _Sequence) -> Tensor:
        ctx.sequence, ctx.dtype = sequence, weight.dtype
        ctx.set_materialize_grads(False)
        kind = weight.device.type
        is_cast = torch.is_autocast_enabled(kind)
        return weight.to(torch.get_autocast_dtype(kind)) if is_cast else weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *_: None) -> tuple[Tensor | None, None]:
        sequence: _Sequence = ctx.sequence
        if not sequence.gradients:  # no step's result had a part in the loss
            return None, None
        gradient = torch.cat(sequence.gradients).T @ torch.cat(sequence.inputs)
        sequence.gradients.clear()
        sequence.inputs.clear()
        return gradient.to(ctx.dtype), None


class _Step(torch.autograd.Function):
    """One step's product. In its backward the weight's gradient is put off."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, sequence: _Sequence) -> Tensor:
        ctx.sequence, ctx.dtype = sequence, inputs.dtype
        inputs = inputs.to(weight.dtype)
        ctx.save_for_backward(inputs, weight)
        return inputs @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inputs, weight = ctx.saved_tensors
        sequence: _Sequence = ctx.sequence
        # Detached: an input's graph leads back to this sequence, and no collector sees circles through autograd.
        sequence.inputs.append(inputs.detach().flatten(0, -2))
        sequence.gradients.append(gradient.detach().flatten(0, -2))
        return (gradient @ weight).to(ctx.dtype), None, None
