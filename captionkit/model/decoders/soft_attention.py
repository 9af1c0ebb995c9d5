"""Show, Attend and Tell, with soft attention (Xu et al. 2015, arXiv:1502.03044).

Letters of shapes: see base.py and attention.py. Here O = H + C: hidden state and context.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captionkit.model.decoders.attention import AdditiveAttention, AttentionDecoder
from captionkit.model.decoders.base import State, Tensors
from captionkit.model.decoders.output import OutputLayer
from captionkit.model.decoders.recurrent import init_forget_gate_bias, lstm_cell
from captionkit.model.decoders.step_linear import StepLinear


class SoftAttention(AttentionDecoder):
    """An LSTM reads each word together with a context, which its state before has chosen; dropout on word vectors and
    before the output layers."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionDecoder.Config):
        deep_output: bool = True
        """Logits from state, word and context (the paper's equation 7), not from the state alone."""
        relu: bool = False
        """A ReLU in the attention, in the place of the hyperbolic tangent."""
        gate_each: bool = False
        """A gate for each of the context's values, not one for all of them."""
        linear_start: bool = False
        """The first state without a hyperbolic tangent."""
        zero_start: bool = False
        """The first state is 0, whatever the image."""
        gated: bool = True
        """A gate for the context at all."""
        maxout: bool = False
        """An LSTM with two candidates, the larger of which counts, as in Att2in of Rennie et al. 2017,
        arXiv:1612.00563."""

    config: Config
    name = "soft_attention"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        context, embed, hidden = config.context_size, config.embed_size, config.hidden_size
        self.begin = None if config.zero_start else nn.Linear(context, 2 * hidden)
        self.attention = AdditiveAttention(config, relu=config.relu)
        self.gate = StepLinear(hidden, context if config.gate_each else 1) if config.gated else None
        gates = (5 if config.maxout else 4) * hidden
        self.from_word = nn.Linear(embed, gates)
        init_forget_gate_bias(self.from_word.bias, hidden)
        self.from_state = StepLinear(hidden + context, gates, bias=False)
        self.deep = nn.Linear(hidden + context, embed) if config.deep_output else None
        self.output = OutputLayer(embed if config.deep_output else hidden, config.vocab_size)

    def start(self, features_NPD: Tensor) -> State:
        """Carry: "hidden", "cell" (N, H), from the mean place. Memory: "grid" (N, P, C), "keys" (N, P, A)."""
        grid_NPC = self.project_places(self.standardize(features_NPD))
        if self.begin is None:
            hidden_NH = cell_NH = grid_NPC.new_zeros(len(grid_NPC), self.config.hidden_size)
        else:
            begin = self.begin(grid_NPC.mean(dim=1))
            hidden_NH, cell_NH = (begin if self.config.linear_start else torch.tanh(begin)).chunk(2, dim=1)
        return State({"hidden": hidden_NH, "cell": cell_NH}, {"grid": grid_NPC, "keys": self.attention.keys(grid_NPC)})

    def attend_step(self, gates_RG: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        hidden_RH, cell_RH = state.carry["hidden"], state.carry["cell"]
        context_RC, weights_RP = self.attention(hidden_RH, state.memory["keys"], state.memory["grid"])
        if self.gate is not None:
            context_RC = torch.sigmoid(self.gate(hidden_RH)) * context_RC
        gates_RG = gates_RG + self.from_state(torch.cat([hidden_RH, context_RC], dim=1))
        hidden_RH, cell_RH = lstm_cell(gates_RG, cell_RH)
        return torch.cat([hidden_RH, context_RC], dim=1), weights_RP, {"hidden": hidden_RH, "cell": cell_RH}

    def to_logits(self, outputs: Tensor, words: Tensor) -> Tensor:
        if self.deep is None:
            outputs = outputs[..., : self.config.hidden_size]
        else:
            outputs = torch.tanh(words + self.deep(self.dropout(outputs)))
        logits: Tensor = self.output(self.dropout(outputs))
        return logits
