"""Tiny decoders of other families, which show that the interface and the search fit them.

`GridAttention` attends over a grid (Xu et al. 2015), `Merge` mixes image and words late (Tanti et al. 2018),
`UsedWords` carries a mask of the words used so far, `OneShot` computes all logits in `start`.
"""

import torch
from torch import Tensor, nn

from captionkit.model.decoders import Decoder, State


class GridAttention(Decoder):
    """A GRU cell that attends to the grid anew for every word."""

    name = "toy_grid_attention"
    feature_kind = "grid"

    def __init__(self, vocab_size: int, feature_size: int, hidden_size: int = 8) -> None:
        super().__init__(self.Config(vocab_size=vocab_size, feature_size=feature_size))
        self.words = nn.Embedding(vocab_size, hidden_size)
        self.keys = nn.Linear(feature_size, hidden_size)
        self.cell = nn.GRUCell(2 * hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        state, logits = self.start(features), []
        for t in range(tokens.shape[1]):
            step_logits, state = self.step(tokens[:, t], state)
            logits.append(step_logits)
        return torch.stack(logits, dim=1)

    def start(self, features: Tensor) -> State:
        keys = self.keys(features)
        return State({"hidden": keys.mean(dim=1)}, {"keys": keys})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        keys, hidden = state.memory["keys"], state.carry["hidden"]
        weights = torch.softmax((keys * hidden.unsqueeze(1)).sum(dim=2), dim=1)
        context = (weights.unsqueeze(2) * keys).sum(dim=1)
        hidden = self.cell(torch.cat([self.words(tokens), context], dim=1), hidden)
        return self.output(hidden), State({"hidden": hidden}, state.memory)


class Merge(Decoder):
    """Words go through an RNN of their own; the image is added just before the output."""

    name = "toy_merge"

    def __init__(self, vocab_size: int, feature_size: int, hidden_size: int = 8) -> None:
        super().__init__(self.Config(vocab_size=vocab_size, feature_size=feature_size))
        self.image = nn.Linear(feature_size, hidden_size)
        self.words = nn.Embedding(vocab_size, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        hidden, _ = self.gru(self.words(tokens))
        logits: Tensor = self.output(torch.relu(self.image(features).unsqueeze(1) + hidden))
        return logits

    def start(self, features: Tensor) -> State:
        image = self.image(features)
        return State({"hidden": torch.zeros_like(image)}, {"image": image})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = state.carry["hidden"].unsqueeze(0)
        output, hidden = self.gru(self.words(tokens).unsqueeze(1), hidden)
        logits = self.output(torch.relu(state.memory["image"] + output.squeeze(1)))
        return logits, State({"hidden": hidden.squeeze(0)}, state.memory)


class UsedWords(Decoder):
    """Never predicts a word twice: the carry holds a mask (R, V) of the words used."""

    name = "toy_used_words"

    def __init__(self, vocab_size: int, feature_size: int, first_word: int = 4) -> None:
        super().__init__(self.Config(vocab_size=vocab_size, feature_size=feature_size))
        self.first_word = first_word
        self.image = nn.Linear(feature_size, vocab_size)
        self.words = nn.Embedding(vocab_size, vocab_size)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        used = nn.functional.one_hot(tokens, self.vocab_size).cumsum(dim=1) > 0
        used[:, :, : self.first_word] = False
        logits: Tensor = self.image(features).unsqueeze(1) + self.words(tokens)
        return logits.masked_fill(used, -torch.inf)

    def start(self, features: Tensor) -> State:
        image = self.image(features)
        return State({"used": torch.zeros_like(image, dtype=torch.bool)}, {"image": image})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        used = state.carry["used"].scatter(1, tokens.unsqueeze(1), True)
        used[:, : self.first_word] = False
        logits = (state.memory["image"] + self.words(tokens)).masked_fill(used, -torch.inf)
        return logits, State({"used": used}, state.memory)


class OneShot(Decoder):
    """All logits at once in `start`; a step only reads those of its position, as a view."""

    name = "toy_one_shot"

    def __init__(self, vocab_size: int, feature_size: int, length: int = 5) -> None:
        super().__init__(self.Config(vocab_size=vocab_size, feature_size=feature_size))
        self.max_steps = length
        self.output = nn.Linear(feature_size, length * vocab_size)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(features).unflatten(1, (-1, self.vocab_size))
        return logits[:, : tokens.shape[1]]

    def start(self, features: Tensor) -> State:
        position = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        return State({"position": position}, {"logits": self.output(features).unflatten(1, (-1, self.vocab_size))})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        position = state.carry["position"]
        rows = torch.arange(len(tokens), device=tokens.device)
        return state.memory["logits"][rows, position], State({"position": position + 1}, state.memory)
