"""Par-inject: an LSTM reads the image beside every word (Tanti et al. 2018, 1703.09137), with position and mask.

It also reads an embedded position, and a mask of the words used so far, which keeps it from repeating itself. All
inputs depend on the given words alone, so teacher forcing is one call of `nn.LSTM`. Letters of shapes: see base.py, and
S, the values of a position's vector, `position_size`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from captionkit.model.decoders.base import PADDING, State
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.decoders.recurrent import RecurrentDecoder, make_lstm


class ParInject(RecurrentDecoder):
    """An LSTM over [image, word, position, words used], then dropout, batch norm and the output layer; dropout on
    features and word vectors too."""

    @dataclass(frozen=True, kw_only=True)
    class Config(RecurrentDecoder.Config):
        embed_size: int = 256
        hidden_size: int = 256
        position_size: int = 32
        """S, length of a position's vector."""
        positions: int = 40
        """Positions that differ; all later ones have the vector of the last."""

    config: Config
    name = "par_inject"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        hidden_size = config.hidden_size
        self.image = nn.Linear(config.feature_size, hidden_size)
        self.words = self.make_embedding(config.embed_size, frozen=config.frozen_words)
        self.positions = nn.Embedding(config.positions, config.position_size)
        # A linear layer over a mask (V) of ones and zeros is the sum of one row for each word used.
        self.mask = self.make_embedding(hidden_size)
        self.lstm = make_lstm(2 * hidden_size + config.embed_size + config.position_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)
        self.output = OutputLayer(hidden_size, config.vocab_size)

    def forward(self, features_ND: Tensor, tokens_NT: Tensor) -> Tensor:
        """In training, the batch norm's statistics are those of all tokens but padding."""
        steps = tokens_NT.shape[1]
        is_equal_NTT = tokens_NT.unsqueeze(2) == tokens_NT.unsqueeze(1)
        is_first_NT1 = ~is_equal_NTT.tril(-1).any(dim=2, keepdim=True)
        mask_NTH = (self.mask(tokens_NT) * is_first_NT1).cumsum(dim=1)
        image_NTH = self.project_image(self.image, features_ND).unsqueeze(1).expand(-1, steps, -1)
        position_NT = torch.arange(steps, device=tokens_NT.device).expand_as(tokens_NT)
        hidden_NTH, _ = self.lstm(torch.cat([image_NTH, *self._embed(tokens_NT, position_NT), mask_NTH], dim=2))
        hidden_NTH = self.dropout(hidden_NTH)
        if self.training:
            is_token_NT = tokens_NT != PADDING
            # The loss ignores padding, but its values must not be infinite.
            normed = self.norm(hidden_NTH[is_token_NT])
            hidden_NTH = torch.zeros_like(hidden_NTH).masked_scatter(is_token_NT.unsqueeze(2), normed)
        else:
            hidden_NTH = self._norm(hidden_NTH.flatten(0, 1)).view(hidden_NTH.shape)
        logits_NTV: Tensor = self.output(hidden_NTH)
        return logits_NTV

    def start(self, features_ND: Tensor) -> State:
        """Carry: "hidden", "cell" and "mask" (N, H), "position" (N,), all 0; "used" (N, V), all False. Memory: "image"
        (N, H)."""
        image_NH = self.project_image(self.image, features_ND)
        zeros_NH = torch.zeros_like(image_NH)
        used_NV = torch.zeros(len(image_NH), self.vocab_size, dtype=torch.bool, device=image_NH.device)
        position_N = torch.zeros(len(image_NH), dtype=torch.int64, device=image_NH.device)
        carry = {"hidden": zeros_NH, "cell": zeros_NH, "mask": zeros_NH, "used": used_NV, "position": position_N}
        return State(carry, {"image": image_NH})

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        """Its batch norm uses the running statistics, in training too."""
        carry, tokens_R1 = state.carry, tokens_R.unsqueeze(1)
        mask_RH = carry["mask"] + self.mask(tokens_R) * ~carry["used"].gather(1, tokens_R1)
        inputs = torch.cat([state.memory["image"], *self._embed(tokens_R, carry["position"]), mask_RH], dim=1)
        hidden_RH, cell_RH = torch.lstm_cell(inputs, (carry["hidden"], carry["cell"]), *self.lstm.all_weights[0])
        used_RV, position_R = carry["used"].scatter(1, tokens_R1, True), carry["position"] + 1
        after = {"hidden": hidden_RH, "cell": cell_RH, "mask": mask_RH, "used": used_RV, "position": position_R}
        return self.output(self._norm(self.dropout(hidden_RH))), State(after, state.memory)

    def _embed(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of words (…, E) and positions (…, S)."""
        return self.dropout(self.words(tokens)), self.positions(position.clamp(max=self.config.positions - 1))

    def _norm(self, hidden_RH: Tensor) -> Tensor:
        """The batch norm by its running statistics, so that a row's result does not depend on its batch."""
        norm = self.norm
        return batch_norm(hidden_RH, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
