"""The gradients of a sequence, against autograd's own."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from captionkit.model.decoders.step_linear import StepLinear, one_sequence


def recur(layer: nn.Linear, inputs_TRI: Tensor, state_RH: Tensor) -> Tensor:
    for inputs_RI in inputs_TRI:
        state_RH = torch.tanh(layer(torch.cat([inputs_RI, state_RH], dim=1)))
    return state_RH.square().sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_gradients_of_all_steps_are_autograds(bias: bool, bfloat16: bool) -> None:
    torch.manual_seed(0)
    layer = StepLinear(7, 4, bias=bias)
    inputs, first = torch.randn(5, 2, 3, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    wanted = [inputs, first, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        expected = torch.autograd.grad(recur(layer, inputs, first), wanted)
        with one_sequence(layer):
            loss = recur(layer, inputs, first)
    torch.testing.assert_close(
        torch.autograd.grad(loss, wanted), expected, **({"rtol": 0.05, "atol": 0.02} if bfloat16 else {})
    )


def test_a_second_sequence_adds_its_gradient_and_no_step_gives_none() -> None:
    torch.manual_seed(0)
    layer, inputs = StepLinear(3, 2, bias=False), torch.randn(4, 3)
    for _ in range(2):
        with one_sequence(layer):
            outputs = layer(inputs)
        outputs.sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, 2 * inputs.sum(dim=0).expand(2, 3))
    layer.weight.grad = None
    with one_sequence(layer):
        pass
    layer(inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(dim=0).expand(2, 3))


def test_a_step_that_the_loss_does_not_use_is_left_out() -> None:
    layer, inputs = StepLinear(3, 2, bias=False), torch.randn(4, 3)
    with one_sequence(layer):
        layer(torch.randn(4, 3))
        used = layer(inputs)
    used.sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(dim=0).expand(2, 3))


def test_nothing_stays_in_memory_behind_a_sequence() -> None:
    layer = StepLinear(5, 2, bias=False)
    with one_sequence(layer):
        assert layer._sequence is not None
        sequence = weakref.ref(layer._sequence[1])
        loss = recur(layer, torch.randn(4, 3, 3), torch.zeros(3, 2))
    loss.backward()
    del loss
    assert sequence() is None


def test_without_gradients_it_is_a_linear_layer() -> None:
    layer, inputs = StepLinear(3, 2), torch.randn(4, 3)
    with torch.no_grad(), one_sequence(layer):
        assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))
