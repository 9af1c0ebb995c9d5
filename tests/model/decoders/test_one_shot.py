"""The whole sentence at once."""

import pytest
import torch

from captionkit.model.search import SearchOptions
from captionkit.model.search.search import search
from captionkit.vocabulary import BOS, EOS, PAD
from tests.model.decoders.families import captions, features_for, small


@torch.no_grad()
def test_the_words_make_no_difference() -> None:
    decoder = small("one_shot").eval()
    features = features_for(decoder, 3)
    assert torch.equal(decoder(features, captions(3)), decoder(features, captions(3, seed=7)))
    assert decoder.predicts_padding
    assert not small("top_down").predicts_padding


def test_it_has_no_more_positions_than_it_was_built_with() -> None:
    decoder = small("one_shot").eval()
    features = features_for(decoder, 2)
    with pytest.raises(ValueError, match="one_shot has 9 positions, not 10: cut the captions, or give it more"):
        decoder(features, torch.full((2, 10), 4))
    options = SearchOptions(beam=2, max_length=30, min_length=20)
    found = search(decoder, features, options, bos=BOS, eos=EOS, pad=PAD)
    assert found.lengths.tolist() == [[9], [9]]
