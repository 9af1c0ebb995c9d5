"""The layer before the softmax, which gives float32 logits in every number format."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class OutputLayer(nn.Linear):
    """A linear layer from a decoder's last values, (…, in_features), to the logits of the words, (…, V).

    Of a decoder in bfloat16 or float16 this layer stays in float32, by `Decoder.to_dtype`: bfloat16 has 8 significant
    bits, so that logits about 16 come out in steps of 1/8, and words that differ by less are ranked by chance. The
    rounding of these results is behind nine tenths of the captions that bfloat16 changes; that of weights and states is
    averaged away. The product itself still takes bfloat16 (on GPUs TF32) factors where the device has such units.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (…, V), in float32 unless weights and input are of one other format."""
        return word_logits(hidden, self.weight, self.bias)


def word_logits(hidden: Tensor, weight_VE: Tensor, bias_V: Tensor | None) -> Tensor:
    """`linear`, of a float32 result where one of the three is float32 and the others are not."""
    bias_dtype = weight_VE.dtype if bias_V is None else bias_V.dtype
    is_mixed = len({hidden.dtype, weight_VE.dtype, bias_dtype}) > 1
    if not is_mixed or torch.is_autocast_enabled(hidden.device.type):  # in training, autocast knows what to do
        return linear(hidden, weight_VE, bias_V)
    with _low_precision_products():
        return linear(hidden.float(), weight_VE.float(), None if bias_V is None else bias_V.float())


@contextmanager
def _low_precision_products() -> Iterator[None]:
    """Float32 matrix products of rounded factors, added up and returned in float32, where the device has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
