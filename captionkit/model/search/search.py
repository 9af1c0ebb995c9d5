"""search(): caption a batch of features by beam search or sampling."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder
from captionkit.model.search.beam import beam_search
from captionkit.model.search.constraints import SearchConstraints
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult
from captionkit.model.search.sampling import sample


@torch.no_grad()
def search(
    decoder: Decoder,
    features: Tensor,
    options: SearchOptions,
    *,
    bos: int,
    eos: int,
    pad: int,
    banned: Sequence[int] = (),
    prefix: Sequence[int] = (),
    keys: Tensor | None = None,
) -> SearchResult:
    """Caption N images.

    The captions of an image depend on its features, its key and the options, not on the other images; how ties are
    broken is specified in `captionkit.model.search.beam`. Every image gets a caption, unless the decoder gives it no
    finite log-probability at all. A hypothesis for which no token is left ends, even below `min_length`, and one that
    reaches `max_length` is closed there.

    Args:
        decoder: in eval mode.
        features: (N, D) or (N, P, D), as the decoder reads them, on its device and in its dtype.
        options: how to search.
        bos, eos, pad: the ids of the start marker, the end marker and padding.
        banned: ids that are not generated, except where `prefix` has them. `bos` and `pad` never are.
        prefix: ids with which every caption begins; they count as words and in the score.
        keys: (N,) int64, for sampling: an image with another key draws other captions. Default: 0 for all.

    Returns:
        The `n_best` captions of each image, on the features' device.

    Raises:
        ValueError: ids or keys that do not fit, or no token left to generate.
    """
    constraints = SearchConstraints.make(options, decoder, banned, prefix, (bos, eos, pad), features.device)
    if keys is None:
        keys = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    if keys.shape != features.shape[:1] or keys.dtype != torch.int64:
        raise ValueError(f"keys are one int64 for each of {len(features)} images, not {keys.dtype} {tuple(keys.shape)}")
    if not len(features):
        return constraints.empty_result(features.device)
    if options.method == "sample":
        return sample(decoder, features, constraints, keys.to(features.device))
    return beam_search(decoder, features, constraints)
