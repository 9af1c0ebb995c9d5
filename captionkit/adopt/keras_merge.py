"""The Keras tutorial's merge model as a captioner of the family `merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captionkit.adopt.captioners import Adopted, change_preprocessing, load_decoder
from captionkit.adopt.errors import AdoptError, EncoderMissingError
from captionkit.adopt.given import Given
from captionkit.adopt.keras_encoders import INCEPTION, VGG, doubts, is_encoder, to_torchvision
from captionkit.adopt.keras_files import Arrays
from captionkit.adopt.keras_graph import MergeLayers, find_layers
from captionkit.adopt.parts import choose_words
from captionkit.adopt.resnets import find_backbone
from captionkit.adopt.words import set_markers, to_rows
from captionkit.images import Preprocessing
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import Merge
from captionkit.model.encoders import NO_NETWORK, Encoder, EncoderError, build_encoder

_USUAL = {2048: "inception_v3", 4096: "vgg16"}
"""The encoder by the length of its features, where none is named."""


def is_keras(given: Sequence[Given]) -> bool:
    """Whether files of Keras's are among these."""
    return any(one.keras or one.keras_weights is not None for one in given)


def adopt_merge(
    given: Sequence[Given],
    encoder_file: Given | None,
    encoder_name: str,
    markers: tuple[str, ...],
    preprocessing: Mapping[str, Any],
) -> Adopted:
    """Put a merge model together.

    Args:
        encoder_file: the weights that `--encoder-weights` names.
        encoder_name: `--encoder`.
        markers: see `set_markers`.
        preprocessing: fields of `Preprocessing` over the usual ones.

    Raises:
        AdoptError: a part is missing, is of another kind, or does not fit.
    """
    networks = [one for one in given if one.keras_weights is not None and is_encoder(one.keras_weights)]
    if networks and encoder_file is None:
        encoder_file = networks[0]
    others = [one for one in given if one not in networks]
    file = _only([one for one in others if one.keras_weights is not None], "weights")
    described = file if file.keras else _only([one for one in others if one.keras], "a description")
    assert described.keras is not None
    layers, arrays = find_layers(described.keras), file.keras_weights
    (image_kernel, image_bias), (embedding_VE,) = _take(arrays, layers.image, 2), _take(arrays, layers.embedding, 1)
    (merged_kernel, merged_bias), (out_kernel, out_bias) = (
        _take(arrays, layers.merged, 2),
        _take(arrays, layers.output, 2),
    )
    from_input, from_state, bias = _lstm(_take(arrays, layers.lstm, 3), layers)
    rows, outputs, hidden, image_size = len(embedding_VE), len(out_bias), len(from_state), len(image_bias)
    name, words = choose_words(
        {one.name: one.words for one in given if one.words}, max(rows, outputs), file.name, at_most=True
    )
    set_markers(words, markers)
    adopted_notes = list(words.notes)
    if 0 not in words.words:
        words.markers.setdefault("pad", 0)
    elif words.markers.get("pad") != 0:
        adopted_notes.append(f"{words.words[0]!r} has the number 0, which the network takes for padding and skips")
    if rows != outputs:
        adopted_notes.append(f"the embedding has {rows:,} rows and the softmax {outputs:,}")
    if max(rows, outputs) > words.rows + 1:
        adopted_notes.append(f"{max(rows, outputs):,} rows for {words.rows:,} numbers of words: the last have no word")
    order = to_rows(words, rows, outputs)
    encoder, exact, approximated = _encoder(encoder_file, encoder_name, len(image_kernel), preprocessing)
    if layers.joined == "concat_words":
        merged_kernel = np.concatenate([merged_kernel[hidden:], merged_kernel[:hidden]])
    decoder = Merge(
        Merge.Config(
            vocab_size=len(order.vocabulary),
            feature_size=len(image_kernel),
            embed_size=embedding_VE.shape[1],
            hidden_size=hidden,
            image_size=image_size,
            merged_size=len(merged_bias),
            joined="add" if layers.joined == "add" else "concat",
            gates=layers.gates,
        )
    )
    weight, out = order.out(_linear(out_kernel), torch.from_numpy(out_bias))
    state = {
        "image.weight": _linear(image_kernel),
        "image.bias": torch.from_numpy(image_bias),
        "words.weight": order.embed(torch.from_numpy(embedding_VE)),
        "lstm.weight_ih_l0": _linear(from_input),
        "lstm.weight_hh_l0": _linear(from_state),
        "lstm.bias_ih_l0": torch.from_numpy(bias),
        "lstm.bias_hh_l0": torch.zeros(4 * hidden),
        "merged.weight": _linear(merged_kernel),
        "merged.bias": torch.from_numpy(merged_bias),
        "output.weight": weight,
        "output.bias": out,
    }
    load_decoder(decoder, state, file.name)
    length = f"; it wrote at most {layers.max_length} words with both markers" if layers.max_length else ""
    adopted = Adopted(Captioner(encoder, decoder, order.vocabulary), "keras-merge", notes=adopted_notes)
    adopted.exact = [
        *exact,
        f"decoder of {file.name}: {layers.joined} of {layers.image} and {layers.lstm}, gates {layers.gates} (Keras "
        f"{layers.version}){length}",
        f"{len(words.words):,} words of {name}",
    ]
    adopted.approximated = approximated
    return adopted


def _only(files: list[Given], what: str) -> Given:
    if not files:
        raise AdoptError(
            f"of the Keras network {what} {'are' if what == 'weights' else 'is'} missing: a .keras or .h5 file of "
            "model.save() has both, model.to_json() the description, model.save_weights() the weights"
        )
    if len(files) > 1:
        raise AdoptError(f"{', '.join(one.name for one in files)} each hold {what} of a network: give one of them")
    return files[0]


def _take(arrays: Arrays, layer: str, count: int) -> list[Any]:
    of_layer = arrays.get(layer)
    if of_layer is None:
        raise AdoptError(
            f"the weights have no layer {layer!r}, which the description names; they have {', '.join(arrays)}"
        )
    if len(of_layer) != count:
        raise AdoptError(f"layer {layer!r} has {len(of_layer)} arrays, and {count} were expected (no bias is unusual)")
    return of_layer


def _lstm(arrays: list[Any], layers: MergeLayers) -> tuple[Any, Any, Any]:
    """Kernel (E, 4H), recurrent kernel (H, 4H) and bias (4H) in the layout of Keras's LSTM.

    A CuDNNLSTM keeps each gate's matrices transposed, and two biases (Keras's `_convert_rnn_weights`).
    """
    from_input, from_state, bias = arrays
    if len(bias) == 2 * from_state.shape[1]:
        bias = bias.reshape(2, -1).sum(axis=0)
    if layers.cudnn:
        from_input = np.hstack([gate.T.reshape(gate.shape, order="F") for gate in np.hsplit(from_input, 4)])
        from_state = np.hstack([gate.T for gate in np.hsplit(from_state, 4)])
    return from_input, from_state, np.ascontiguousarray(bias)


def _linear(kernel: Any) -> Tensor:
    """Keras's (in, out) as PyTorch's (out, in)."""
    return torch.from_numpy(np.ascontiguousarray(kernel.T))


def _encoder(
    file: Given | None, name: str, size: int, changes: Mapping[str, Any]
) -> tuple[Encoder, list[str], list[str]]:
    """The encoder, and what of it is exact and what approximated."""
    exact, approximated = list[str](), list[str]()
    if name == NO_NETWORK:
        return build_encoder(name, "pooled", features=size), exact, approximated
    state: Mapping[str, Tensor] | str
    if file is not None and file.keras_weights is not None:
        name, state, usual = to_torchvision(file.keras_weights)
        exact = [f"{name} with the weights of {file.name}"]
        approximated = doubts(file.keras_weights, changes)
    else:
        name = name or _USUAL.get(size, "")
        if not name:
            raise EncoderMissingError(
                f"the network reads features of {size} values, of which captionkit cannot tell the encoder: name it by "
                "--encoder, as torchvision does, or give its weights by --encoder-weights"
            )
        usual, state = _usual_preprocessing(name), "pretrained"
        if file is not None:
            backbone = find_backbone(file.tensors)
            state = backbone.tensors if backbone else file.tensors
        approximated = [
            f"encoder: torchvision's {name} stands in for Keras's, whose weights and padding are others; features and "
            "captions differ a little. --encoder-weights FILE.h5 takes Keras's own"
        ]
    try:
        encoder = build_encoder(name, "pooled", state, change_preprocessing(usual, changes))
    except EncoderError as err:
        raise (EncoderMissingError if state == "pretrained" else AdoptError)(f"the encoder: {err}") from err
    if encoder.feature_size != size:
        raise AdoptError(f"the encoder {name} gives {encoder.feature_size} values and the network reads {size}")
    return encoder, exact, approximated


def _usual_preprocessing(name: str) -> Preprocessing:
    """As Keras resizes; normalised as torchvision's weights want it."""
    from captionkit.model.encoders import default_preprocessing

    try:
        usual = default_preprocessing(name)
    except EncoderError as err:
        raise AdoptError(f"--encoder: {err}") from err
    own = INCEPTION if name == "inception_v3" else VGG
    side = own.size if name in ("inception_v3", "vgg16") else usual.size
    return Preprocessing(side, side, "nearest", "squash", usual.mean, usual.std)
