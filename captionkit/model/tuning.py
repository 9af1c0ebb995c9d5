"""The numbers that were chosen by trial, each with what was measured and the test that fails without it.

The tests are in tests/model/: in `test_tuning.py` where no other file is named.
"""

from typing import Final

# Features and embeddings, as decoders read them.

MAX_DEVIATIONS: Final = 8.0
"""Standard deviations at which standardized features are clipped. Some of SqueezeNet's lie 50 out; far below 8 the clip
would change most images (`test_the_clip_of_features_touches_tails_only`)."""
MIN_RELATIVE_SPREAD: Final = 0.01
"""Share of the mean standard deviation that is added to each, so that values that hardly vary stay small
(`test_a_value_that_hardly_varies_stays_small`)."""
MIN_SPREAD: Final = 1e-4
"""Least standard deviation, for features that are all the same (`test_features_that_never_vary_stay_finite`)."""
EMBEDDING_RANGE: Final = 0.08
"""New word vectors are drawn from ± this, as in Show and Tell's code
(`test_new_word_vectors_do_not_outweigh_the_image`)."""

# Search. None of these changes a caption; they are about time alone.

STEPS_PER_CHECK: Final = 4
"""On a GPU, the host looks only every few steps which captions have ended, since it must wait for the device then
(`search/test_beam.py`: `test_when_images_are_taken_out_changes_nothing`)."""
WORTH_COMPACTING: Final = 7 / 8
"""Finished images are removed from the batch when at most this share is live (the same test)."""
NUCLEUS_GUESS: Final = 256
"""Words among which `top_p` is looked for before the vocabulary is sorted (`search/test_sampling.py`)."""
TOPK_BLOCK: Final = 64
"""Width of the blocks in which `stable_topk` looks through a vocabulary (`search/test_ranking.py`)."""
TOPK_MIN_VALUES: Final = 2**15
"""Number of values below which the many small operations on blocks cost more than they save (`search/test_ranking.py`).
"""
FORCED_LOGPROB: Final = -100.0
"""Counted, in nats, for a prefix's token that the decoder rules out: the caption must come out all the same
(`search/test_beam.py`: `test_a_forced_word_that_the_decoder_rules_out`)."""

# Consensus. On the dev images of Flickr8k, 2 to 4 for SHARPNESS and 0.15 to 0.6 for RIDGE come out within one point of
# CIDEr-D; LIKELIHOOD is worth half a point, and from 0.2 to 0.5 it makes no difference.

CLIP_DEVIATIONS: Final = 4.0
"""Standard deviations at which features are clipped, so that a few of them do not decide which images are alike
(`test_one_value_does_not_decide_which_images_are_alike`)."""
SHARPNESS: Final = 3.0
"""The regression's kernel is exp(SHARPNESS × (cosine − 1)) (`test_the_regression_is_smooth_and_well_conditioned`)."""
RIDGE: Final = 0.3
"""Added to the diagonal of the kernel (the same test)."""
LIKELIHOOD: Final = 0.3
"""CIDEr-D that a caption gains for each nat by which its tokens are likelier, on average
(`test_likelihood_decides_between_captions_of_like_consensus`)."""
SPARE_NEIGHBOURS: Final = 16
"""Images beyond k whose similarity is computed exactly: in fp32 the last bits depend on the batch, and must not decide
(`test_consensus.py`: `test_the_nearest_are_the_nearest`)."""
MAX_NEIGHBOURS: Final = 1_000
"""Most neighbours where they are some of the training images: a regression is solved for each image
(`test_consensus.py`: `test_a_thousand_can_be_asked_or_all_of_ten_thousand`)."""
MAX_ALL: Final = 10_000
"""Most training images where all are neighbours: one regression serves all images, and its matrix has that number
squared, 400 MB (the same test)."""

# Reading.

READER_THREADS: Final = 8
"""Threads that fetch and decode; with addresses, most of their time is waiting (`test_image_reader.py`)."""
