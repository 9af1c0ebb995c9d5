"""Which tokens may come next, and the first steps that every search has in common.

Letters of shapes: N images, R rows, V words of the vocabulary, T tokens of a caption at most, m hypotheses per image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, State, Tensors
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult
from captionkit.model.tuning import FORCED_LOGPROB


@dataclass(frozen=True)
class SearchConstraints:
    """The options of one search, and the token ids that they need. Made by `make`."""

    options: SearchOptions
    bos: int
    eos: int
    pad: int
    max_length: int
    """T, most words of a caption: the option, or fewer where the decoder takes fewer steps."""
    banned_ids: Tensor
    """Ids that are not generated: a tensor on the device, since a list would be copied there at every step."""
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
    ) -> "SearchConstraints":
        """The constraints for this decoder; `markers` are the ids of start, end and padding.

        Raises:
            ValueError: ids that cannot be banned or forced, or a prefix that leaves no room for another word.
        """
        size, (bos, eos, pad) = decoder.vocab_size, markers
        max_length = min(options.max_length, decoder.max_steps or options.max_length)
        for what, ids in (("banned", banned), ("forced", prefix)):
            if outside := [number for number in ids if not 0 <= number < size]:
                raise ValueError(f"{what} ids {outside} are outside the decoder's {size} words")
        if eos in banned:
            raise ValueError("the end of a caption cannot be banned; min_length keeps captions from ending early")
        if set(prefix) & set(markers):
            raise ValueError("a forced beginning is made of words, not of markers")
        if len(prefix) >= max_length:
            raise ValueError(
                f"a forced beginning of {len(prefix)} words leaves no room: captions have at most {max_length}"
            )
        banned_ids = {bos, pad, *banned}
        if len(banned_ids) >= size - 1:
            raise ValueError(f"{len(banned_ids)} of {size} words are banned: none is left")
        on_device = torch.tensor(sorted(banned_ids), device=device)
        return cls(options, bos, eos, pad, max_length, on_device, tuple(prefix))

    def empty_result(self, device: torch.device) -> SearchResult:
        """The result for no images."""
        scores = torch.full((0, self.options.n_best), -torch.inf, device=device)
        lengths = torch.zeros_like(scores, dtype=torch.int64)
        return self.to_result(scores, scores, lengths, lengths.unsqueeze(-1).expand(-1, -1, self.max_length))

    def begin(self, decoder: Decoder, features: Tensor) -> tuple[Tensor, State, Tensor, Tensor]:
        """Step through the start marker and the prefix, once for each image.

        Returns:
            Log-probabilities (N, V) of the next token, the state, the log-probability (N,) of the prefix, and the
            tokens (N, T), padded.
        """
        images, device = len(features), features.device
        tokens_NT = torch.full((images, self.max_length), self.pad, dtype=torch.int64, device=device)
        sums_N = torch.zeros(images, dtype=torch.float32, device=device)
        bos_N = torch.full((images,), self.bos, dtype=torch.int64, device=device)
        logits_NV, state = decoder.step(bos_N, decoder.start(features))
        logprobs_NV = log_softmax(logits_NV)
        for t, token in enumerate(self.prefix):
            tokens_NT[:, t] = token
            sums_N = sums_N + logprobs_NV[:, token].clamp_min(FORCED_LOGPROB)
            logits_NV, state = decoder.step(tokens_NT[:, t], state)
            logprobs_NV = log_softmax(logits_NV)
        return logprobs_NV, state, sums_N, tokens_NT

    def mask_forbidden(self, logprobs_RV: Tensor, tokens_RT: Tensor, length: int) -> Tensor:
        """Set the log-probabilities of tokens that may not come next to -inf, in place.

        The others are not normalised again: scores stay the model's own. Where no token is left the caption may end,
        even below `min_length`.

        Args:
            logprobs_RV: a tensor that no one else uses.
            tokens_RT: the hypotheses, of `length` words.
        """
        end_R = logprobs_RV[:, self.eos].clone()
        logprobs_RV.index_fill_(1, self.banned_ids, -torch.inf)
        if 0 < self.options.no_repeat_ngram <= length:
            logprobs_RV.scatter_(1, self._ngram_repeats(tokens_RT[:, :length]), -torch.inf)
        if length < self.options.min_length:
            logprobs_RV[:, self.eos] = -torch.inf
            is_stuck_R = logprobs_RV.amax(dim=1) == -torch.inf
            logprobs_RV[:, self.eos] = torch.where(is_stuck_R, end_R, -torch.inf)
        return logprobs_RV

    def _ngram_repeats(self, tokens_RT: Tensor) -> Tensor:
        """The tokens (R, any) that would complete an n-gram for the second time, or padding."""
        n = self.options.no_repeat_ngram
        ngrams = tokens_RT.unfold(1, n, 1)
        last = tokens_RT[:, tokens_RT.shape[1] - n + 1 :]
        is_repeat = (ngrams[..., :-1] == last.unsqueeze(1)).all(dim=-1)
        return torch.where(is_repeat, ngrams[..., -1], self.pad)  # padding is banned anyway

    def to_result(self, scores_Nm: Tensor, sums_Nm: Tensor, lengths_Nm: Tensor, tokens_NmT: Tensor) -> SearchResult:
        """Hypotheses with scores, log-probabilities and lengths; a score of -inf means that there is none."""
        is_none_Nm = scores_Nm == -torch.inf
        lengths_Nm = lengths_Nm.masked_fill(is_none_Nm, 0)
        ended_Nm = (lengths_Nm < self.max_length) & ~is_none_Nm
        is_word_NmT = torch.arange(self.max_length, device=scores_Nm.device) < lengths_Nm.unsqueeze(-1)
        means_Nm = (sums_Nm / (lengths_Nm + ended_Nm).clamp_min(1)).masked_fill(is_none_Nm, -torch.inf)
        return SearchResult(tokens_NmT.masked_fill(~is_word_NmT, self.pad), lengths_Nm, scores_Nm, means_Nm, ended_Nm)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (…, V) in fp32, in a tensor of their own."""
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def repeat_rows(tensors: Tensors, times: int) -> Tensors:
    """Each row `times` times, next to each other."""
    return {key: tensor.repeat_interleave(times, dim=0) for key, tensor in tensors.items()}


def select_rows(tensors: Tensors, rows: Tensor) -> Tensors:
    """These rows, in this order."""
    return {key: tensor.index_select(0, rows) for key, tensor in tensors.items()}
