"""Top-down attention: one LSTM attends, another predicts the words (Anderson et al. 2018, arXiv:1707.07998, 3.2).

The strongest family. It attends to the places of any encoder's grid, where the paper has an object detector's regions.

Unlike the paper's, the output reads the context and the mean place too, not the language LSTM alone (a deep output, as
in Show, Attend and Tell, equation 7). With few images it learns so in half the time, since through two LSTMs the image
has little influence at first (docs/recipes/flickr8k.md).

Letters of shapes: see base.py and attention.py. Here O = 2H + C: language state, context, and the mean place's part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captionkit.model.decoders.attention import AdditiveAttention, AttentionDecoder
from captionkit.model.decoders.base import State, Tensors
from captionkit.model.decoders.output import OutputLayer, word_logits
from captionkit.model.decoders.recurrent import init_forget_gate_bias, lstm_cell
from captionkit.model.decoders.step_linear import StepLinear


class TopDown(AttentionDecoder):
    """The attention LSTM reads word, mean place and the language LSTM's last state, and attends; the language LSTM
    reads the context. Dropout on word vectors, context, mean place and before the output layer."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionDecoder.Config):
        tied: bool = False
        """Score the words by their own vectors (Press and Wolf 2017, arXiv:1608.05859)."""
        deep_output: bool = True
        """Logits from language state, context and mean place; False: from the language state alone, as in the paper."""
        image_size: int | None = None
        """Values that a hidden layer with a ReLU makes of the mean place before the attention LSTM reads it; None: the
        mean place stays as it is."""

    config: Config
    name = "top_down"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        features, embed, hidden = config.feature_size, config.embed_size, config.hidden_size
        self.image = nn.Linear(features, config.image_size) if config.image_size else None
        self.from_image = nn.Linear(config.image_size or features, 4 * hidden)
        init_forget_gate_bias(self.from_image.bias)
        self.from_word = nn.Linear(embed, 4 * hidden, bias=False)
        self.from_states = StepLinear(2 * hidden, 4 * hidden, bias=False)
        self.attention = AdditiveAttention(config)
        self.language = StepLinear(config.context_size + 2 * hidden, 4 * hidden)
        init_forget_gate_bias(self.language.bias)
        self.deep = nn.Linear(hidden + config.context_size, hidden) if config.deep_output else None
        self.deep_image = nn.Linear(features, hidden, bias=False) if config.deep_output else None
        # If tied, the words' vectors are the last layer's weights; a bundle holds no tensor twice.
        self.output = OutputLayer(hidden, embed if config.tied else config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tied else None

    def start(self, features_NPD: Tensor) -> State:
        """Carry, all 0: "states" (N, 2H), the hidden states of attention and language LSTM; "attention_cell" and
        "language_cell" (N, H). Memory: "grid" (N, P, C), "keys" (N, P, A), and the mean place's parts of the gates,
        "image" (N, G), and of a deep output, "deep" (N, H)."""
        grid_NPD = self.standardize(features_NPD)
        mean_ND, zeros_NH = grid_NPD.mean(dim=1), grid_NPD.new_zeros(len(grid_NPD), self.config.hidden_size)
        states = torch.cat([zeros_NH, zeros_NH], dim=1)
        image = mean_ND if self.image is None else torch.relu(self.image(self.dropout(mean_ND)))
        grid_NPC = self.project_places(grid_NPD)
        memory = {"grid": grid_NPC, "keys": self.attention.keys(grid_NPC), "image": self.from_image(image)}
        if self.deep_image is not None:
            memory["deep"] = self.deep_image(self.dropout(mean_ND))
        return State({"states": states, "attention_cell": zeros_NH, "language_cell": zeros_NH}, memory)

    def attend_step(self, gates_RG: Tensor, state: State) -> tuple[Tensor, Tensor, Tensors]:
        carry, memory = state
        gates_RG = gates_RG + memory["image"] + self.from_states(carry["states"])
        attention_RH, attention_cell_RH = lstm_cell(gates_RG, carry["attention_cell"])
        context_RC, weights_RP = self.attention(attention_RH, memory["keys"], memory["grid"])
        context_RC = self.dropout(context_RC)
        before_RH = carry["states"][:, self.config.hidden_size :]
        gates_RG = self.language(torch.cat([context_RC, attention_RH, before_RH], dim=1))
        language_RH, language_cell_RH = lstm_cell(gates_RG, carry["language_cell"])
        states = torch.cat([attention_RH, language_RH], dim=1)
        after = {"states": states, "attention_cell": attention_cell_RH, "language_cell": language_cell_RH}
        deep = [context_RC, memory["deep"]] if self.deep is not None else []
        return torch.cat([language_RH, *deep], dim=1), weights_RP, after

    def to_logits(self, outputs: Tensor, words: Tensor) -> Tensor:
        if self.deep is None:
            hidden = outputs
        else:
            size = self.deep.in_features
            hidden = torch.relu(self.deep(outputs[..., :size]) + outputs[..., size:])
        logits: Tensor = self.output(self.dropout(hidden))
        return word_logits(logits, self.words.weight, self.bias) if self.config.tied else logits
