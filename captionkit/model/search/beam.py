"""Beam search over a batch of images, with groups for diverse beam search (Vijayakumar et al. 2016, 1610.02424).

Every step extends the live beams of a group by every token and keeps the best W extensions: those with the end marker
become finished hypotheses, the others stay live, filled up to W by the next best ones. Groups choose in turn; a token
loses `diversity` for each hypothesis of an earlier group that takes it at this step. The loss counts for the choice
only: scores stay the model's log-probabilities.

Ties: equal extensions rank by the rank of their beam, then by the token's log-probability, then by its id; of equal
finished hypotheses the earlier one ranks first.

Stop: a group is done when no live beam can still enter its finished hypotheses, not even with tokens of probability 1
up to the length that suits its score best. A group of width 1 is greedy: it is done at its first end. A group that is
done is frozen, and an image whose groups are all done is removed from the batch; when that happens changes no caption.

Letters of shapes: N images, A of them in the batch still, G groups, W live beams of a group, F finished hypotheses kept
for a group, R = A × G × W rows, B beams that are extended (1 at first, then W), M tokens looked at per row, V words,
T tokens of a caption.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from captionkit.model.decoders import Decoder, State, Tensors
from captionkit.model.search.constraints import SearchConstraints, log_softmax, repeat_rows, select_rows
from captionkit.model.search.ranking import SearchResult, gather_beams, mask_duplicates, n_best, stable_topk
from captionkit.model.tuning import STEPS_PER_CHECK, WORTH_COMPACTING


def beam_search(decoder: Decoder, features: Tensor, constraints: SearchConstraints) -> SearchResult:
    """The best captions of N images; `captionkit.model.search.search` has checked the arguments."""
    logprobs_RV, state, sums_N, tokens_NT = constraints.begin(decoder, features)
    beams = _Beams(constraints, state, sums_N, tokens_NT, decoder.shared_memory)
    for length in range(len(constraints.prefix), constraints.max_length):
        parents_R = beams.extend(constraints.mask_forbidden(logprobs_RV, beams.tokens_RT, length), length)
        if length + 1 == constraints.max_length:
            beams.close_at_limit()
            break
        if beams.is_sync_free or (length + 1) % STEPS_PER_CHECK == 0:
            parents_R = beams.compact(parents_R)
        if not len(parents_R):
            break
        beams.state = State(select_rows(beams.state.carry, parents_R), beams.state.memory)
        logits_RV, beams.state = decoder.step(beams.tokens_RT[:, length], beams.state)
        logprobs_RV = log_softmax(logits_RV)
    return beams.result()


class _Finished(NamedTuple):
    """Finished hypotheses, best first, with the length in words. Free slots have the score -inf."""

    scores_AGF: Tensor
    sums_AGF: Tensor
    lengths_AGF: Tensor
    tokens_AGFT: Tensor

    def add(self, scores_AGW: Tensor, sums_AGW: Tensor, length: int, tokens_AGWT: Tensor) -> "_Finished":
        """The best of these and of W new ones of equal length."""
        lengths_AGW = torch.full_like(scores_AGW, length, dtype=torch.int64)
        new = (scores_AGW, sums_AGW, lengths_AGW, tokens_AGWT)
        both = [torch.cat(pair, dim=2) for pair in zip(self, new, strict=True)]
        _, indices_AGF = stable_topk(both[0], self.scores_AGF.shape[2])
        return _Finished(*(gather_beams(values, indices_AGF) for values in both))

    def select(self, images: Tensor) -> "_Finished":
        """Those of these images."""
        return _Finished(*(values.index_select(0, images) for values in self))

    def put(self, images: Tensor, new: "_Finished") -> "_Finished":
        """With those of these images replaced."""
        return _Finished(*(values.index_copy(0, images, other) for values, other in zip(self, new, strict=True)))


class _Extensions(NamedTuple):
    """Extensions of beams: log-probability, token, and index of the beam within its group."""

    sums_AGW: Tensor
    tokens_AGW: Tensor
    beams_AGW: Tensor


class _Beams:
    """The live beams of a batch, and its finished hypotheses.

    Attributes:
        tokens_RT: the live beams' tokens, padded.
        state: the decoder's. Before the first `extend` there is one row for each image.
        shared_memory: the decoder's; these tensors keep one row for each image.
        is_sync_free: whether the host can read values without waiting for a device.
    """

    def __init__(
        self,
        constraints: SearchConstraints,
        state: State,
        sums_N: Tensor,
        tokens_NT: Tensor,
        shared_memory: frozenset[str],
    ) -> None:
        options, device = constraints.options, tokens_NT.device
        self.constraints = constraints
        self.groups, self.width = options.groups, options.beam // options.groups
        self.state, self.tokens_RT, self.shared_memory = state, tokens_NT, shared_memory
        self.is_sync_free = device.type == "cpu"
        self._sums_AGW = sums_N.view(-1, 1, 1)  # one beam at first; -inf for beams that are not live
        self._images_A = torch.arange(len(tokens_NT), device=device)  # their indices in the batch of N
        shape = (len(tokens_NT), self.groups, min(options.n_best, self.width))
        scores_AGF = torch.full(shape, -torch.inf, device=device)
        lengths_AGF = torch.zeros(shape, dtype=torch.int64, device=device)
        tokens_AGFT = torch.full((*shape, constraints.max_length), constraints.pad, dtype=torch.int64, device=device)
        self._finished = self._all_finished = _Finished(scores_AGF, scores_AGF, lengths_AGF, tokens_AGFT)
        self._end_count_AG = lengths_AGF[:, :, 0]
        self._is_done_AG = self._end_count_AG > 0

    def extend(self, logprobs_RV: Tensor, length: int) -> Tensor:
        """Extend all live beams of `length` words by one token.

        Returns:
            For each new row the row that it extends, for the state to follow.
        """
        constraints, (images, _, beams) = self.constraints, self._sums_AGW.shape
        beam = constraints.options.beam
        # The end and `beam` other tokens: enough even if earlier groups make the best ones costly.
        values_RM, candidates_RM = stable_topk(logprobs_RV, beam + 1)
        values_RM = values_RM.masked_fill(values_RM.isnan(), -torch.inf)  # a decoder may fail on one image only
        if (missing := 2 * self.width - beams * values_RM.shape[1]) > 0:  # a vocabulary smaller than the beam
            values_RM = pad(values_RM, (0, missing), value=-torch.inf)
            candidates_RM = pad(candidates_RM, (0, missing), value=constraints.pad)
        shape = (images, -1, beams, values_RM.shape[1])
        sums_AGBM = self._sums_AGW.unsqueeze(-1) + values_RM.view(shape)
        chosen, live = self._choose(sums_AGBM, candidates_RM.view(shape))

        rows_AGB = torch.arange(len(self.tokens_RT), device=logprobs_RV.device).view(shape[:3])
        rows_AGB = rows_AGB.expand(-1, self.groups, -1)
        is_end_AGW = (chosen.tokens_AGW == constraints.eos) & (chosen.sums_AGW > -torch.inf)
        if not self.is_sync_free or is_end_AGW.any():
            scores_AGW = constraints.options.score(chosen.sums_AGW, length + 1).masked_fill(~is_end_AGW, -torch.inf)
            tokens_AGWT = self.tokens_RT[gather_beams(rows_AGB, chosen.beams_AGW)]
            self._finished = self._finished.add(scores_AGW, chosen.sums_AGW, length, tokens_AGWT)
            self._end_count_AG = self._end_count_AG + is_end_AGW.sum(dim=2)

        parents_R = gather_beams(rows_AGB, live.beams_AGW).flatten()
        if len(parents_R) != len(self.tokens_RT):
            own, shared = self._parts_of_memory()
            self.state = State(self.state.carry, repeat_rows(own, beam) | shared)
        self.tokens_RT = self.tokens_RT.index_select(0, parents_R)
        self.tokens_RT[:, length] = live.tokens_AGW.flatten()
        self._is_done_AG = self._is_done_AG | self._now_done(live.sums_AGW)
        self._sums_AGW = live.sums_AGW.masked_fill(self._is_done_AG.unsqueeze(-1), -torch.inf)
        return parents_R

    def _choose(self, sums_AGBM: Tensor, tokens_AGBM: Tensor) -> tuple[_Extensions, _Extensions]:
        """The best W extensions of each group, ends or not, and its best W without an end.

        Args:
            sums_AGBM: log-probabilities of all beams with all candidate tokens. At the first step G is 1, and the
                beam is that of all groups.
            tokens_AGBM: the candidate tokens.
        """
        chosen: list[_Extensions] = []
        live: list[_Extensions] = []
        for group in range(self.groups):
            own = min(group, sums_AGBM.shape[1] - 1)
            ranked = sums = sums_AGBM[:, own].flatten(1)
            tokens = tokens_AGBM[:, own].flatten(1)
            if live:
                taken = torch.cat([e.tokens_AGW.masked_fill(e.sums_AGW == -torch.inf, -1) for e in live], dim=1)
                times = (tokens.unsqueeze(2) == taken.unsqueeze(1)).sum(dim=2)
                ranked = sums - self.constraints.options.diversity * times
            # Of 2 × W extensions at least W have no end, as each of W beams has one extension by the end at most.
            _, indices = stable_topk(ranked, 2 * self.width)
            best = _Extensions(
                gather_beams(sums, indices), gather_beams(tokens, indices), indices // sums_AGBM.shape[3]
            )
            chosen.append(_Extensions(*(values[:, : self.width] for values in best)))
            is_end = best.tokens_AGW == self.constraints.eos
            order = is_end.to(torch.int8).argsort(dim=1, stable=True)[:, : self.width]
            live.append(_Extensions(*(gather_beams(values, order) for values in best)))
        return _stack_groups(chosen), _stack_groups(live)

    def _now_done(self, sums_AGW: Tensor) -> Tensor:
        """(A, G), whether no live beam of these log-probabilities can enter the finished hypotheses."""
        options = self.constraints.options
        bound_AG = options.score(sums_AGW.amax(dim=2), self.constraints.max_length)
        is_done_AG = self._finished.scores_AGF[:, :, -1] >= bound_AG
        if options.stop == "full" or self.width == 1:
            is_done_AG = is_done_AG | (self._end_count_AG >= self.width)
        return is_done_AG

    def compact(self, parents_R: Tensor) -> Tensor:
        """Remove the images that are done from the batch if they are many; returns the rest of `parents_R`."""
        is_live_A = ~self._is_done_AG.all(dim=1)
        live_images = int(is_live_A.sum())
        if live_images > WORTH_COMPACTING * len(is_live_A):
            return parents_R
        self._all_finished = self._all_finished.put(self._images_A, self._finished)
        kept_A = is_live_A.nonzero().squeeze(1)
        beam = self.constraints.options.beam
        rows_R = (kept_A.unsqueeze(1) * beam + torch.arange(beam, device=kept_A.device)).flatten()
        self._images_A, self._sums_AGW, self._is_done_AG, self._end_count_AG = (
            values.index_select(0, kept_A)
            for values in (self._images_A, self._sums_AGW, self._is_done_AG, self._end_count_AG)
        )
        self._finished = self._finished.select(kept_A)
        self.tokens_RT = self.tokens_RT.index_select(0, rows_R)
        own, shared = self._parts_of_memory()
        self.state = State(self.state.carry, select_rows(own, rows_R) | select_rows(shared, kept_A))
        return parents_R.index_select(0, rows_R)

    def _parts_of_memory(self) -> tuple[Tensors, Tensors]:
        """The tensors with a row for each hypothesis, and those with one for each image."""
        memory, shared = self.state.memory, self.shared_memory
        return {k: v for k, v in memory.items() if k not in shared}, {k: v for k, v in memory.items() if k in shared}

    def close_at_limit(self) -> None:
        """Put live beams, which have `max_length` words, into the free slots of the finished hypotheses."""
        max_length, finished = self.constraints.max_length, self._finished
        tokens_AGWT = self.tokens_RT.view(*self._sums_AGW.shape, -1)
        scores_AGW, order_AGW = stable_topk(self.constraints.options.score(self._sums_AGW, max_length), self.width)
        # The free slots are the last ones: the first of them takes the best live beam.
        is_free_AGF = finished.scores_AGF == -torch.inf
        rank_AGF = (is_free_AGF.cumsum(dim=2) - 1).clamp_min(0)
        fits_AGF = is_free_AGF & (gather_beams(scores_AGW, rank_AGF) > -torch.inf)
        order_AGF = gather_beams(order_AGW, rank_AGF)
        self._finished = _Finished(
            torch.where(fits_AGF, gather_beams(scores_AGW, rank_AGF), finished.scores_AGF),
            torch.where(fits_AGF, gather_beams(self._sums_AGW, order_AGF), finished.sums_AGF),
            finished.lengths_AGF.masked_fill(fits_AGF, max_length),
            torch.where(fits_AGF.unsqueeze(-1), gather_beams(tokens_AGWT, order_AGF), finished.tokens_AGFT),
        )

    def result(self) -> SearchResult:
        """The finished hypotheses of the N images."""
        finished = self._all_finished.put(self._images_A, self._finished)
        scores_NGF = finished.scores_AGF
        rounds_NGF = torch.arange(scores_NGF.shape[2], device=scores_NGF.device).expand_as(scores_NGF)
        scores, sums, lengths, tokens, rounds = (values.flatten(1, 2) for values in (*finished, rounds_NGF))
        if self.groups == 1:
            return self.constraints.to_result(scores, sums, lengths, tokens)
        scores = mask_duplicates(scores, tokens)
        return n_best(
            self.constraints.to_result(scores, sums, lengths, tokens), self.constraints.options.n_best, rounds
        )


def _stack_groups(groups: list[_Extensions]) -> _Extensions:
    return _Extensions(*(torch.stack(values, dim=1) for values in zip(*groups, strict=True)))
