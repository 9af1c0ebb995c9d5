"""Scheduled sampling: training on what the decoder itself would have said (Bengio et al. 2015, arXiv:1506.03099).

No gradient flows through a word that was drawn. So the words are drawn first, by stepping without gradients, and
teacher forcing reads the mixture then: the same gradient as that of one pass of steps, at the speed of `forward`, and
every loss that reads tokens can have it, one that looks at attention too.
"""

import torch
from torch import Tensor

from captionkit.model.decoders.base import PADDING, Decoder


@torch.no_grad()
def scheduled_tokens(
    decoder: Decoder, features: Tensor, tokens: Tensor, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """The tokens to train on: each word, with this probability, one drawn from what the decoder would say there.

    It draws as it would caption, without dropout, and having read the mixture so far.

    Args:
        features: (N, D) or (N, P, D), as the decoder wants them.
        tokens: (N, T), beginning with the start marker, which stays, as padding does.
        probability: of being drawn, 0 to 1.
        generator: the source of chance, on the features' device.

    Returns:
        (N, T), for `decoder(features, …)`; the targets stay those of the true tokens.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of drawing a word is between 0 and 1, not {probability!r}")
    if probability == 0:
        return tokens
    chance = torch.rand(tokens.shape, generator=generator, device=tokens.device)
    is_drawn = (chance < probability) & (tokens != PADDING)
    mixed = tokens.clone()
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        state = decoder.start(features)
        for place in range(1, tokens.shape[1]):
            logits, state = decoder.step(mixed[:, place - 1], state)
            words = torch.softmax(logits, dim=1, dtype=torch.float32).multinomial(1, generator=generator).squeeze(1)
            mixed[:, place] = torch.where(is_drawn[:, place], words, tokens[:, place])
    finally:
        for module, mode in modes:
            module.training = mode
    return mixed


def scheduled_forward(
    decoder: Decoder, features: Tensor, tokens: Tensor, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """`decoder(features, tokens)` with scheduled sampling: logits (N, T, V), which have gradients.

    The arguments are those of `scheduled_tokens`.
    """
    logits: Tensor = decoder(features, scheduled_tokens(decoder, features, tokens, probability, generator))
    return logits
