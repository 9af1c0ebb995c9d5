"""What may be said next, and the beginning that every search has in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, State, Tensors
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult

STEPS_PER_CHECK = 4
"""On a GPU the host asks only every few steps what is done, as asking makes it wait."""
WORTH_COMPACTING = 7 / 8
"""What is done is taken out of the batch when at most this share of it goes on."""
_FORCED_LOGPROB = -100.0
"""Counted, in nats, for a forced word that the decoder rules out: a caption must come out all the same."""


@dataclass(frozen=True)
class Rules:
    """The options of one search together with what they need to know of the words.

    Raises:
        ValueError: words that cannot be banned or forced, or a beginning that leaves no room for another word.
    """

    options: SearchOptions
    bos: int
    eos: int
    pad: int
    limit: int
    """Most words of a caption: `max_length`, or fewer where the decoder ends earlier."""
    never: Tensor
    """Ids that are not said; a tensor on the device, as a list would be sent there at every step."""
    prefix: tuple[int, ...]

    @classmethod
    def make(
        cls,
        options: SearchOptions,
        decoder: Decoder,
        banned: Sequence[int],
        prefix: Sequence[int],
        markers: tuple[int, int, int],
        device: torch.device,
    ) -> "Rules":
        """The rules for this decoder; `markers` are the ids of start, end and padding."""
        size, (bos, eos, pad) = decoder.vocab_size, markers
        limit = min(options.max_length, decoder.max_steps or options.max_length)
        for what, ids in (("banned", banned), ("forced", prefix)):
            if outside := [number for number in ids if not 0 <= number < size]:
                raise ValueError(f"{what} ids {outside} are outside the decoder's {size} words")
        if eos in banned:
            raise ValueError("the end of a caption cannot be banned; min_length keeps captions from ending early")
        if set(prefix) & set(markers):
            raise ValueError("a forced beginning is made of words, not of markers")
        if len(prefix) >= limit:
            raise ValueError(f"a forced beginning of {len(prefix)} words leaves no room: captions have at most {limit}")
        never = {bos, pad, *banned}
        if len(never) >= size - 1:
            raise ValueError(f"{len(never)} of {size} words are banned: none is left to say")
        return cls(options, bos, eos, pad, limit, torch.tensor(sorted(never), device=device), tuple(prefix))

    def nothing(self, device: torch.device) -> SearchResult:
        """The result for no images."""
        none = torch.full((0, self.options.n_best), -torch.inf, device=device)
        lengths = torch.zeros_like(none, dtype=torch.int64)
        return finished(self, none, none, lengths, lengths.unsqueeze(-1).expand(-1, -1, self.limit))

    def begin(self, decoder: Decoder, features: Tensor) -> tuple[Tensor, State, Tensor, Tensor]:
        """Read the image, the start marker and the forced words, once per image.

        Returns log-probabilities (N, V) of the next word, the state, those of what was said (N,), and what was said
        (N, limit), padded.
        """
        images, device = len(features), features.device
        said = torch.full((images, self.limit), self.pad, dtype=torch.int64, device=device)
        sums = torch.zeros(images, dtype=torch.float32, device=device)
        tokens = torch.full((images,), self.bos, dtype=torch.int64, device=device)
        logits, state = decoder.step(tokens, decoder.start(features))
        logprobs = log_softmax(logits)
        for place, word in enumerate(self.prefix):
            said[:, place] = word
            sums = sums + logprobs[:, word].clamp_min(_FORCED_LOGPROB)
            logits, state = decoder.step(said[:, place], state)
            logprobs = log_softmax(logits)
        return logprobs, state, sums, said

    def forbid(self, logprobs: Tensor, said: Tensor, words: int) -> Tensor:
        """Set the log-probabilities (R, V) of what may not come next to -inf, in place.

        Scores stay the model's own: what is left over is not made to add up to 1. Where nothing is left at all the
        caption may end, even below `min_length`.

        Args:
            logprobs: a tensor of the search's own.
            said: (R, T), of which the first `words` tokens are words.
            words: how many have been said.
        """
        end = logprobs[:, self.eos].clone()
        logprobs.index_fill_(1, self.never, -torch.inf)
        if 0 < self.options.no_repeat_ngram <= words:
            logprobs.scatter_(1, self._repeats(said[:, :words]), -torch.inf)
        if words < self.options.min_length:
            logprobs[:, self.eos] = -torch.inf
            stuck = logprobs.amax(dim=1) == -torch.inf
            logprobs[:, self.eos] = torch.where(stuck, end, -torch.inf)
        return logprobs

    def _repeats(self, said: Tensor) -> Tensor:
        """The words (R, any) that would end an n-gram said before."""
        n = self.options.no_repeat_ngram
        grams = said.unfold(1, n, 1)
        last = said[:, said.shape[1] - n + 1 :]
        again = (grams[..., :-1] == last.unsqueeze(1)).all(dim=-1)
        return torch.where(again, grams[..., -1], self.pad)  # padding is forbidden anyway


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in fp32, in a tensor of their own."""
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def finished(rules: Rules, scores: Tensor, sums: Tensor, lengths: Tensor, tokens: Tensor) -> SearchResult:
    """Hypotheses (N, m) with tokens (N, m, T) as a result; what scores -inf is none, whatever else it holds."""
    none = scores == -torch.inf
    lengths = lengths.masked_fill(none, 0)
    ended = (lengths < rules.limit) & ~none
    said = torch.arange(rules.limit, device=scores.device) < lengths.unsqueeze(-1)
    means = (sums / (lengths + ended).clamp_min(1)).masked_fill(none, -torch.inf)
    return SearchResult(tokens.masked_fill(~said, rules.pad), lengths, scores, means, ended)


def repeat(tensors: Tensors, times: int) -> Tensors:
    """Each row `times` times, next to each other."""
    return {key: tensor.repeat_interleave(times, dim=0) for key, tensor in tensors.items()}


def select(tensors: Tensors, rows: Tensor) -> Tensors:
    """These rows, in this order."""
    return {key: tensor.index_select(0, rows) for key, tensor in tensors.items()}
