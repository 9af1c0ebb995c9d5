"""Scheduled sampling: training on tokens drawn from the decoder itself (Bengio et al. 2015, arXiv:1506.03099).

No gradient flows through a drawn token. So the tokens are drawn first, by steps without gradients, and teacher forcing
reads the mixture afterwards: the gradient is that of one pass of steps, at the speed of `forward`, and every loss that
reads tokens can use it, one with attention too.

Letters of shapes: see `captionkit.model.decoders.base`.
"""

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder
from captionkit.vocabulary import PAD


@torch.no_grad()
def scheduled_tokens(
    decoder: Decoder,
    features: Tensor,
    tokens_NT: Tensor,
    probability: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The tokens to train on: with this probability, a token is drawn from the decoder's prediction at its place.

    The decoder predicts in eval mode, without dropout, having read the mixture so far. Its modes are put back.

    Args:
        features: (N, D) or (N, P, D), as the decoder reads them.
        tokens_NT: int64, beginning with the start marker, which stays, as padding does.
        probability: 0 to 1.
        generator: the source of randomness, on the features' device.

    Returns:
        (N, T), for `decoder(features, …)`; the targets stay those of the true tokens.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of drawing a word is between 0 and 1, not {probability!r}")
    if probability == 0:
        return tokens_NT
    random_NT = torch.rand(tokens_NT.shape, generator=generator, device=tokens_NT.device)
    is_drawn_NT = (random_NT < probability) & (tokens_NT != PAD)
    mixed_NT = tokens_NT.clone()
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        state = decoder.start(features)
        for t in range(1, tokens_NT.shape[1]):
            logits_NV, state = decoder.step(mixed_NT[:, t - 1], state)
            probabilities_NV = torch.softmax(logits_NV, dim=1, dtype=torch.float32)
            drawn_N = probabilities_NV.multinomial(1, generator=generator).squeeze(1)
            mixed_NT[:, t] = torch.where(is_drawn_NT[:, t], drawn_N, tokens_NT[:, t])
    finally:
        for module, mode in modes:
            module.training = mode
    return mixed_NT
