"""What training minimises: caption loss by teacher forcing, and the self-critical loss.

Losses come as a worker's share of the whole batch's: the shares of all workers add up to what one worker alone would
have. For that they are divided by counts over the whole batch, which every worker knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from captionkit.model.decoders import AttentionDecoder, Decoder
from captionkit.model.decoders.attention import doubly_stochastic_loss
from captionkit.model.decoders.scheduled import scheduled_tokens
from captionkit.model.encoders import Encoder
from captionkit.vocabulary import EOS, PAD


@dataclass(frozen=True)
class Totals:
    """Counts over a whole batch."""

    rows: int
    tokens: int
    """Words and end markers to be predicted."""


class Objective(nn.Module):
    """A captioner's networks, and the loss of their captions. One module, since that is what DDP wraps.

    Args:
        encoder: trained along where given, and inputs are pixels (N, S, S, 3) uint8; else inputs are features.
        label_smoothing: probability given to all other words alike.
        attention_penalty: weight of the doubly stochastic loss, for decoders that attend (Xu et al. 2015, equation 14).
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: Encoder | None = None,
        label_smoothing: float = 0.0,
        attention_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder
        self.label_smoothing, self.attention_penalty = label_smoothing, attention_penalty

    def forward(
        self,
        inputs: Tensor,
        tokens: Tensor,
        totals: Totals,
        scheduled: float = 0.0,
        advantages: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            inputs: features (N, …) or pixels (N, S, S, 3).
            tokens: (N, T) with markers and padding.
            scheduled: probability of reading the decoder's own last word.
            advantages: (N,) for the self-critical loss: how much better each caption's reward is than its baseline.
            image: (N,) int64, which row of `inputs` each caption is of, where they are fewer.
        """
        features = inputs if self.encoder is None else self.encoder(inputs)
        if image is not None:
            features = features[image]
        targets = tokens[:, 1:]
        if self.decoder.predicts_padding:
            targets = targets.masked_fill(targets == PAD, EOS)
        read = tokens[:, :-1]
        if advantages is not None:
            words = log_softmax(self.decoder(features, read).float(), dim=2).gather(2, targets.unsqueeze(2)).squeeze(2)
            return -(words.masked_fill(targets == PAD, 0.0) * advantages.unsqueeze(1)).sum() / totals.tokens
        if scheduled:
            read = scheduled_tokens(self.decoder, features, read, scheduled)
        penalty: Tensor | float = 0.0
        if isinstance(self.decoder, AttentionDecoder) and self.attention_penalty:
            logits, attention = self.decoder.attend(features, read)
            share = len(tokens) / totals.rows
            penalty = self.attention_penalty * share * doubly_stochastic_loss(attention, targets != PAD)
        else:
            logits = self.decoder(features, read)
        loss = cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return loss / totals.tokens + penalty

    def train(self, mode: bool = True) -> Objective:
        """Training mode, but for the encoder's batch norms: small batches would spoil their statistics."""
        super().train(mode)
        if self.encoder is not None:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
