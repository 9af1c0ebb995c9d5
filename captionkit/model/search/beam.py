"""Beam search over a batch of images, with groups for diverse beam search (Vijayakumar et al. 2016, 1610.02424).

At every step an image's hypotheses are extended by every word, and the best W extensions of a group are kept:
those that end go to the pool of finished captions, the others go on, made up to W by the next best ones. Groups
choose one after the other; a word loses `diversity` for each hypothesis of the earlier groups that has just said
it. That loss counts for the choice only: scores stay the model's log-probabilities.

Order: equal extensions rank by their parents' rank, then by the word's log-probability, then by its id; of equal
finished captions the one found first ranks first.

End: a group is done when nothing open can come into its pool any more, not even with words that cost nothing up
to the length that suits its score best. A group of width 1 is greedy: it is done at its first end. A group that
is done is frozen, and an image whose groups are done is taken out of the batch; when that happens changes nothing.

Shapes: N images, A of them still searched, G groups of W hypotheses, A × G × W rows, M words looked at per row,
P finished captions kept per group, T words.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from captionkit.model.decoders import Decoder, State
from captionkit.model.search.ranking import SearchResult, best, take, top, without_repeats
from captionkit.model.search.rules import (
    STEPS_PER_CHECK,
    WORTH_COMPACTING,
    Rules,
    finished,
    log_softmax,
    repeat,
    select,
)


def beam_search(decoder: Decoder, features: Tensor, rules: Rules) -> SearchResult:
    """The best captions of N images; the arguments have been checked by `captionkit.model.search.search`."""
    logprobs, state, sums, said = rules.begin(decoder, features)
    beams = _Beams(rules, state, sums, said)
    for words in range(len(rules.prefix), rules.limit):
        parents = beams.extend(rules.forbid(logprobs, beams.said, words), words)
        if words + 1 == rules.limit:
            beams.cut()
            break
        if beams.asking_is_free or (words + 1) % STEPS_PER_CHECK == 0:
            parents = beams.compact(parents)
        if not len(parents):
            break
        beams.state = State(select(beams.state.carry, parents), beams.state.memory)
        logits, beams.state = decoder.step(beams.said[:, words], beams.state)
        logprobs = log_softmax(logits)
    return beams.result()


class _Pool(NamedTuple):
    """Finished captions, best first: each (A, G, P), and their words (A, G, P, T). Free places score -inf."""

    scores: Tensor
    sums: Tensor
    lengths: Tensor
    tokens: Tensor

    def add(self, scores: Tensor, sums: Tensor, words: int, tokens: Tensor) -> "_Pool":
        """The best of these captions and W new ones (A, G, W) of equal length."""
        lengths = torch.full_like(scores, words, dtype=torch.int64)
        both = [torch.cat(pair, dim=2) for pair in zip(self, (scores, sums, lengths, tokens), strict=True)]
        _, places = top(both[0], self.scores.shape[2])
        return _Pool(*(take(values, places) for values in both))

    def select(self, images: Tensor) -> "_Pool":
        return _Pool(*(values.index_select(0, images) for values in self))

    def put(self, images: Tensor, pool: "_Pool") -> "_Pool":
        return _Pool(*(values.index_copy(0, images, new) for values, new in zip(self, pool, strict=True)))


class _Picks(NamedTuple):
    """Extensions chosen: log-probability, word, and parent's number within its group; each (A, G, W)."""

    sums: Tensor
    words: Tensor
    parents: Tensor


class _Beams:
    """The hypotheses of a batch, and what has become of those that ended.

    Attributes:
        said: their words so far, (rows, T), padded.
        state: the decoder's. Before the first `extend` there is one row per image.
        asking_is_free: whether a look at the numbers makes nobody wait.
    """

    def __init__(self, rules: Rules, state: State, sums: Tensor, said: Tensor) -> None:
        options, device = rules.options, said.device
        self.rules = rules
        self.groups, self.width = options.groups, options.beam // options.groups
        self.state, self.said = state, said
        self.asking_is_free = device.type == "cpu"
        self._sums = sums.view(-1, 1, 1)  # (A, G, W); -inf for hypotheses that are none
        self._images = torch.arange(len(said), device=device)  # (A,), their places in the batch
        shape = (len(said), self.groups, min(options.n_best, self.width))
        nothing = torch.full(shape, -torch.inf, device=device)
        lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        tokens = torch.full((*shape, rules.limit), rules.pad, dtype=torch.int64, device=device)
        self._pool = self._found = _Pool(nothing, nothing, lengths, tokens)
        self._endings = lengths[:, :, 0]  # (A, G), how many have ended
        self._done = self._endings > 0

    def extend(self, logprobs: Tensor, words: int) -> Tensor:
        """Extend all hypotheses of `words` words by one, given log-probabilities (rows, V).

        Returns for each new row the row it comes from, for the state to follow.
        """
        beam, (active, _, parents) = self.rules.options.beam, self._sums.shape
        # One more than go on at most, for the end; that is enough even if earlier groups spoil the best words.
        values, candidates = top(logprobs, beam + 1)
        values = values.masked_fill(values.isnan(), -torch.inf)  # a decoder that fails on an image loses that one
        if (lacking := 2 * self.width - parents * values.shape[1]) > 0:  # a vocabulary smaller than the beam
            values = functional.pad(values, (0, lacking), value=-torch.inf)
            candidates = functional.pad(candidates, (0, lacking), value=self.rules.pad)
        shape = (active, -1, parents, values.shape[1])
        ends, on = self._choose(self._sums.unsqueeze(-1) + values.view(shape), candidates.view(shape))

        rows = torch.arange(len(self.said), device=logprobs.device).view(shape[:3]).expand(-1, self.groups, -1)
        ended = (ends.words == self.rules.eos) & (ends.sums > -torch.inf)
        if not self.asking_is_free or ended.any():
            scores = self.rules.options.score(ends.sums, words + 1).masked_fill(~ended, -torch.inf)
            self._pool = self._pool.add(scores, ends.sums, words, self.said[take(rows, ends.parents)])
            self._endings = self._endings + ended.sum(dim=2)

        row_parents = take(rows, on.parents).flatten()
        if len(row_parents) != len(self.said):
            self.state = State(self.state.carry, repeat(self.state.memory, beam))
        self.said = self.said.index_select(0, row_parents)
        self.said[:, words] = on.words.flatten()
        self._done = self._done | self._now_done(on.sums)
        self._sums = on.sums.masked_fill(self._done.unsqueeze(-1), -torch.inf)
        return row_parents

    def _choose(self, sums: Tensor, words: Tensor) -> tuple[_Picks, _Picks]:
        """The best W extensions of each group, ends or not, and the best W of those that go on.

        Args:
            sums: log-probabilities of all hypotheses with all candidate words, (A, G, parents, M); G is 1 and
                shared by all groups before the first choice.
            words: the candidate words, of the same shape.
        """
        best: list[_Picks] = []
        going: list[_Picks] = []
        for group in range(self.groups):
            own = min(group, sums.shape[1] - 1)
            ranked = own_sums = sums[:, own].flatten(1)
            own_words = words[:, own].flatten(1)
            if going:
                heard = torch.cat([on.words.masked_fill(on.sums == -torch.inf, -1) for on in going], dim=1)
                times = (own_words.unsqueeze(2) == heard.unsqueeze(1)).sum(dim=2)
                ranked = own_sums - self.rules.options.diversity * times
            # Of twice the width at least W go on, as each of W parents has one end at most.
            _, places = top(ranked, 2 * self.width)
            picks = _Picks(take(own_sums, places), take(own_words, places), places // sums.shape[3])
            best.append(_Picks(*(values[:, : self.width] for values in picks)))
            is_end = picks.words == self.rules.eos
            order = is_end.to(torch.int8).argsort(dim=1, stable=True)[:, : self.width]
            going.append(_Picks(*(take(values, order) for values in picks)))
        return _stack(best), _stack(going)

    def _now_done(self, sums: Tensor) -> Tensor:
        """(A, G): whether nothing that goes on, of log-probabilities (A, G, W), can come into the pool."""
        options = self.rules.options
        done = self._pool.scores[:, :, -1] >= options.score(sums.amax(dim=2), self.rules.limit)
        return done | (self._endings >= self.width) if options.stop == "full" or self.width == 1 else done

    def compact(self, parents: Tensor) -> Tensor:
        """Take out the images that are done, if they are many; returns what is left of `parents`."""
        open_images = ~self._done.all(dim=1)
        left = int(open_images.sum())
        if left > WORTH_COMPACTING * len(open_images):
            return parents
        self._found = self._found.put(self._images, self._pool)
        kept = open_images.nonzero().squeeze(1)
        beam = self.rules.options.beam
        rows = (kept.unsqueeze(1) * beam + torch.arange(beam, device=kept.device)).flatten()
        self._images, self._sums, self._done, self._endings = (
            values.index_select(0, kept) for values in (self._images, self._sums, self._done, self._endings)
        )
        self._pool = self._pool.select(kept)
        self.said = self.said.index_select(0, rows)
        self.state = State(self.state.carry, select(self.state.memory, rows))
        return parents.index_select(0, rows)

    def cut(self) -> None:
        """Put hypotheses that have reached the limit into the places that are still free."""
        tokens = self.said.view(*self._sums.shape, -1)
        scores, order = top(self.rules.options.score(self._sums, self.rules.limit), self.width)
        # The free places are the last ones of the pool: the first of them takes the best.
        free = self._pool.scores == -torch.inf
        nth = (free.cumsum(dim=2) - 1).clamp_min(0)
        fits = free & (take(scores, nth) > -torch.inf)
        order = take(order, nth)
        self._pool = _Pool(
            torch.where(fits, take(scores, nth), self._pool.scores),
            torch.where(fits, take(self._sums, order), self._pool.sums),
            self._pool.lengths.masked_fill(fits, self.rules.limit),
            torch.where(fits.unsqueeze(-1), take(tokens, order), self._pool.tokens),
        )

    def result(self) -> SearchResult:
        """What was found for the N images."""
        found = self._found.put(self._images, self._pool)
        rounds = torch.arange(found.scores.shape[2], device=found.scores.device).expand_as(found.scores)
        scores, sums, lengths, tokens, rounds = (values.flatten(1, 2) for values in (*found, rounds))
        if self.groups == 1:
            return finished(self.rules, scores, sums, lengths, tokens)
        scores = without_repeats(scores, tokens)
        return best(finished(self.rules, scores, sums, lengths, tokens), self.rules.options.n_best, rounds)


def _stack(groups: list[_Picks]) -> _Picks:
    return _Picks(*(torch.stack(values, dim=1) for values in zip(*groups, strict=True)))
