"""The networks that a training starts from: encoder, decoder and vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from captionkit.corpus.glove import read_glove
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.model.bundle import read_weights
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import DECODERS, Decoder, build_decoder, with_more_words
from captionkit.model.encoders import Encoder, EncoderError, build_encoder, default_preprocessing
from captionkit.progress import log_line
from captionkit.storage import Storage
from captionkit.training.corpus import TrainingCorpus
from captionkit.training.options import NAMED_WEIGHTS, NetworkOptions, TrainOptions
from captionkit.training.preflight import NO_SAMPLING
from captionkit.vocabulary import UNK, Vocabulary

INTEGER_ARGUMENTS = ("size", "layers", "length", "positions")
"""Endings of the names of integer decoder arguments. On the command line all of them are floats."""


WORDS_SHOWN = 10
"""New words that are named."""


@dataclass(frozen=True)
class Networks:
    """What a training changes. Encoder and decoder are on the CPU, and get the best weights of each stage."""

    encoder: Encoder
    vocabulary: Vocabulary
    decoder: Decoder


def make_networks(options: TrainOptions, corpus: TrainingCorpus, storage: Storage) -> Networks:
    """New networks, or those of the bundle that `--init` names.

    Raises:
        UsageError: options that do not fit the encoder, the decoder or each other.
        StorageError: weights, GloVe vectors or a bundle that cannot be read.
    """
    if (init := options.network.init) is not None:
        captioner = Captioner.load(init, device="cpu", dtype="float32", engine=None, storage=storage)
        captioner.encoder.check()
        if captioner.decoder.predicts_padding and options.scst.scst_epochs:
            raise UsageError(NO_SAMPLING.format(captioner.decoder.name))
        networks = Networks(captioner.encoder, captioner.vocabulary, captioner.decoder)
        if options.corpus.new_words:
            networks = _with_new_words(networks, corpus.vocabulary(options.corpus.min_count))
    else:
        encoder = _make_encoder(options.network, options.steps.seed, storage)
        vocabulary = corpus.vocabulary(options.corpus.min_count)
        networks = Networks(encoder, vocabulary, _make_decoder(options, corpus, vocabulary, encoder, storage))
    if layers := options.finetune.finetune_layers:
        try:
            networks.encoder.train_only(layers)
        except EncoderError as err:
            raise UsageError(f"--finetune-layers: {err}") from err
    return networks


def _with_new_words(networks: Networks, vocabulary: Vocabulary) -> Networks:
    """The networks with the words of another vocabulary behind their own."""
    known = networks.vocabulary
    new = [word for word in vocabulary.words if word not in known]
    some = f": {', '.join(new[:WORDS_SHOWN])}{' …' if len(new) > WORDS_SHOWN else ''}" if new else ""
    log_line(f"{counted(len(new), 'new word')}{some}")
    if not new:
        return networks
    decoder = with_more_words(networks.decoder, len(new), UNK)
    return Networks(networks.encoder, Vocabulary((*known.words, *new)), decoder)


def _make_encoder(network: NetworkOptions, seed: int, storage: Storage) -> Encoder:
    torch.manual_seed(seed)
    weights: Any = network.encoder_weights
    if weights not in NAMED_WEIGHTS:
        weights = read_weights(storage.normalize(weights), storage)
    output = DECODERS[network.decoder].feature_kind
    try:
        preprocessing = default_preprocessing(network.encoder, network.image_size)
        if network.whole_image:
            preprocessing = replace(preprocessing, mode="squash", resize=preprocessing.size)
        return build_encoder(network.encoder, output, weights, preprocessing, grid=network.grid)
    except EncoderError as err:
        raise UsageError(f"--encoder {network.encoder}: {err}") from err


def _make_decoder(
    options: TrainOptions, corpus: TrainingCorpus, vocabulary: Vocabulary, encoder: Encoder, storage: Storage
) -> Decoder:
    network = options.network
    vectors = None
    config: dict[str, Any] = {
        name: int(value) if float(value).is_integer() and name.endswith(INTEGER_ARGUMENTS) else value
        for name, value in network.decoder_options.items()
    }
    if options.corpus.glove is not None:
        glove = read_glove(options.corpus.glove, vocabulary.words, counts=corpus.counts, storage=storage)
        log_line(str(glove))
        vectors = torch.from_numpy(glove.matrix)
        config["embed_size"] = vectors.shape[1]
    torch.manual_seed(options.steps.seed)
    try:
        decoder = build_decoder(
            network.decoder, {"vocab_size": len(vocabulary), "feature_size": encoder.feature_size, **config}
        )
        if vectors is not None:
            decoder.set_embeddings(vectors, frozen=network.frozen_words)
    except ValueError as err:
        raise UsageError(f"--decoder {network.decoder}: {err}") from err
    return decoder
