"""Searches that are obviously right and very slow: every prefix is read anew, every list is sorted whole."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, State
from captionkit.model.search import SearchOptions
from captionkit.model.search.ranking import SearchResult
from captionkit.model.search.search import search

PAD, BOS, EOS = 0, 1, 2
Words = tuple[int, ...]


class Tree(Decoder):
    """Logits that are a hash of the image and of all words so far, but ties are common.

    `levels`: how many different logits there are; few make ties. `ends`: added to the end marker's logit.
    """

    name = "toy_tree"

    def __init__(self, vocab_size: int, levels: int = 1000, ends: float = 0.0) -> None:
        super().__init__(self.Config(vocab_size=vocab_size, feature_size=1))
        self.levels, self.ends = levels, ends

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def start(self, features: Tensor) -> State:
        image = features[:, 0].to(torch.int64)
        return State({"path": torch.zeros_like(image)}, {"image": image})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        path = (state.carry["path"] * 1_000_003 + tokens * 7_919 + 12_345) % 2_147_483_647
        path = (path + state.memory["image"] * 65_537) % 2_147_483_647
        words = torch.arange(self.vocab_size, device=tokens.device)
        mixed = (path.unsqueeze(1) * (2 * words + 1) + words * 40_503) % 1_000_003
        logits = (mixed % self.levels).to(torch.float32) * (6.0 / self.levels)
        logits[:, EOS] += self.ends
        return logits, State({"path": path}, state.memory)


@dataclass
class Task:
    """One search: the arguments of `search`."""

    decoder: Decoder
    features: Tensor
    options: SearchOptions
    banned: Words = ()
    prefix: Words = ()
    keys: Tensor | None = None
    _logprobs: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        return min(self.options.max_length, self.decoder.max_steps or 10**9)

    def run(self, **changes: Any) -> SearchResult:
        arguments = {"features": self.features, "keys": self.keys, **changes}
        return search(
            self.decoder,
            arguments["features"],
            self.options,
            bos=BOS,
            eos=EOS,
            pad=PAD,
            banned=self.banned,
            prefix=self.prefix,
            keys=arguments["keys"],
        )

    def logprobs(self, image: int, words: Words) -> Tensor:
        """The model's log-probabilities (V,) of what comes after these words."""
        if (image, words) not in self._logprobs:
            state = self.decoder.start(self.features[image : image + 1])
            for token in (BOS, *words):
                logits, state = self.decoder.step(torch.tensor([token]), state)
            self._logprobs[image, words] = torch.log_softmax(logits[0], dim=0)
        return self._logprobs[image, words]

    def allowed(self, image: int, words: Words) -> list[tuple[int, np.float32]]:
        """The words and ends that may come next, likeliest first, equal ones by their ids."""
        logprobs = self.logprobs(image, words).numpy()
        n = self.options.no_repeat_ngram
        seen = {words[i : i + n] for i in range(len(words) - n + 1)} if n else set()
        fine = [
            word
            for word, logprob in enumerate(logprobs)
            if word not in (PAD, BOS, EOS, *self.banned)
            and not (n and len(words) >= n - 1 and (*words[len(words) - n + 1 :], word) in seen)
            and logprob > -np.inf
        ]
        if len(words) >= self.options.min_length or not fine:
            fine.append(EOS)
        return sorted(((word, logprobs[word]) for word in fine), key=lambda pair: (-pair[1], pair[0]))

    def prefix_sum(self, image: int) -> np.float32:
        total = np.float32(0)
        for place, word in enumerate(self.prefix):
            total += max(self.logprobs(image, self.prefix[:place]).numpy()[word], np.float32(-100))
        return total

    def score(self, total: np.float32, tokens: int) -> float:
        return float(self.options.score(torch.tensor(total), tokens))


@dataclass(frozen=True)
class Found:
    words: Words
    score: float
    mean: float
    ended: bool


def read(result: SearchResult, image: int) -> list[Found]:
    """The hypotheses of one image, after a look at the padding."""
    found = []
    for tokens, length, score, mean, ended in zip(*(values[image].tolist() for values in result), strict=True):
        assert all(token == PAD for token in tokens[length:])
        if score == -math.inf:
            assert (length, mean, ended) == (0, -math.inf, False)
        else:
            assert all(token not in (PAD, BOS, EOS) for token in tokens[:length])
            found.append(Found(tuple(tokens[:length]), score, mean, ended))
    return found


def every_caption(task: Task, image: int) -> list[Found]:
    """All captions that the rules allow, best first."""
    found = []

    def grow(words: Words, total: np.float32) -> None:
        if len(words) == task.limit:
            found.append(Found(words, task.score(total, task.limit), float(total) / task.limit, False))
            return
        for word, logprob in task.allowed(image, words):
            if word == EOS:
                tokens = len(words) + 1
                ended = total + logprob
                found.append(Found(words, task.score(ended, tokens), float(ended) / tokens, True))
            else:
                grow((*words, word), total + logprob)

    grow(task.prefix, task.prefix_sum(image))
    return sorted(found, key=lambda caption: (not caption.ended, -caption.score))


def slow_beam(task: Task, image: int) -> list[Found]:
    """Beam search as `captionkit.model.search.beam` specifies it, for one image. One group stops at the limit only."""
    options = task.options
    width = options.beam // options.groups
    open_hypotheses = [[(task.prefix, task.prefix_sum(image))] for _ in range(options.groups)]
    pools: list[list[Found]] = [[] for _ in range(options.groups)]
    kept = min(options.n_best, width)
    for length in range(len(task.prefix), task.limit):
        taken: list[int] = []
        for group, hypotheses in enumerate(open_hypotheses):
            candidates = []
            for parent, (words, total) in enumerate(hypotheses):
                for rank, (word, logprob) in enumerate(task.allowed(image, words)):
                    extended = total + logprob
                    loss = np.float32(options.diversity) * np.float32(taken.count(word))
                    candidates.append((-(extended - loss), parent, rank, word, extended))
            candidates.sort()
            pool = pools[group]
            for _, parent, _, word, total in candidates[:width]:
                if word == EOS:
                    score = task.score(total, length + 1)
                    pool.append(Found(hypotheses[parent][0], score, float(total) / (length + 1), True))
            going = [candidate for candidate in candidates if candidate[3] != EOS][:width]
            taken += [word for _, _, _, word, _ in going]
            open_hypotheses[group] = [((*hypotheses[parent][0], word), total) for _, parent, _, word, total in going]
            endings = len(pool)
            ranked = sorted(pool, key=lambda caption: -caption.score)[:kept]
            best = max((total for _, total in open_hypotheses[group]), default=np.float32(-np.inf))
            done = (options.stop == "full" or width == 1) and endings >= width
            if options.groups > 1 and len(ranked) == kept:
                done = done or ranked[-1].score >= task.score(best, task.limit)
            if done:
                open_hypotheses[group] = []
    for pool, hypotheses in zip(pools, open_hypotheses, strict=True):
        pool.sort(key=lambda caption: -caption.score)
        cut = [
            Found(words, task.score(total, task.limit), float(total) / task.limit, False) for words, total in hypotheses
        ]
        pool += sorted(cut, key=lambda caption: -caption.score)
    if options.groups == 1:
        return pools[0][: options.n_best]
    chosen: dict[Words, tuple[int, Found]] = {}
    for pool in pools:
        for turn, caption in enumerate(pool[:kept]):
            chosen.setdefault(caption.words, (turn, caption))
    by_turn = sorted(chosen.values(), key=lambda pair: (pair[0], not pair[1].ended, -pair[1].score))
    return sorted((c for _, c in by_turn[: options.n_best]), key=lambda caption: (not caption.ended, -caption.score))
