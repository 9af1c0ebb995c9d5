"""The losses: cross-entropy by teacher forcing, with its penalties, and the self-critical loss.

A worker computes its share of the batch's loss; the shares of all workers add up to the loss that a single worker would
compute. So each share is divided by counts over the whole batch, which every worker knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from captionkit.model.decoders import AttentionDecoder, Decoder
from captionkit.model.encoders import Encoder
from captionkit.training.scheduled_sampling import scheduled_tokens
from captionkit.vocabulary import EOS, PAD


@dataclass(frozen=True)
class BatchTotals:
    """Counts over a whole batch, of all workers."""

    rows: int
    """Captions."""
    tokens: int
    """Words and end markers to predict."""


class Objective(nn.Module):
    """A captioner's networks and the loss of their captions, in one module as DistributedDataParallel needs it.

    Args:
        encoder: if given, it is trained too, and inputs are pixels (N, S, S, 3) uint8; else inputs are features.
        label_smoothing: probability spread over all words.
        attention_penalty: weight of the doubly stochastic loss, for decoders with attention (Xu et al. 2015, equation
            14).
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
        totals: BatchTotals,
        scheduled: float = 0.0,
        advantages: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            inputs: features (N, …) or pixels (N, S, S, 3).
            tokens: (N, T) with markers and padding.
            scheduled: scheduled sampling: probability of reading the decoder's own previous word.
            advantages: (N,), each caption's reward minus its baseline; if given, the loss is the self-critical one.
            image: (N,) int64, the row of `inputs` of each caption; None if they correspond one to one.
        """
        features = inputs if self.encoder is None else self.encoder(inputs)
        if image is not None:
            features = features[image]
        targets = tokens[:, 1:]
        if self.decoder.predicts_padding:
            targets = targets.masked_fill(targets == PAD, EOS)
        read = tokens[:, :-1]
        if advantages is not None:
            log_probs = (
                log_softmax(self.decoder(features, read).float(), dim=2).gather(2, targets.unsqueeze(2)).squeeze(2)
            )
            return -(log_probs.masked_fill(targets == PAD, 0.0) * advantages.unsqueeze(1)).sum() / totals.tokens
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
        """Training mode, except for the encoder's batch norms: small batches would spoil their statistics."""
        super().train(mode)
        if self.encoder is not None:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def doubly_stochastic_loss(attention_NTP: Tensor, is_target_NT: Tensor) -> Tensor:
    """How far a caption's attention is from weights that add up to 1 at every place (Xu et al. 2015, equation 14).

    Args:
        attention_NTP: attention weights, which add up to 1 over the places.
        is_target_NT: whether there is a word or an end marker to predict, or only padding.

    Returns:
        The mean over images and places of (1 - Σ_t attention)², to be added to the loss with a weight (theirs: 1).
    """
    sums_NP = (attention_NTP * is_target_NT.unsqueeze(2)).sum(dim=1, dtype=torch.float32)
    return (1 - sums_NP).square().mean()
