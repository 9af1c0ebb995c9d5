"""What was given, sorted into the parts of a captioner: encoder, decoder, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.recurrent import is_decoder
from captionkit.adopt.resnets import Backbone, find_backbone
from captionkit.adopt.torch_files import renamed
from captionkit.adopt.words import WordList

WORDS_FORMS = (
    "a pickle of a Vocabulary, a Keras Tokenizer or a dictionary, or JSON: word → index, index → word, or a list of "
    "words"
)
"""In which forms a vocabulary may come, for people."""


@dataclass
class Parts:
    """The parts of a captioner of PyTorch.

    Attributes:
        backbone: the network in the encoder's file.
        encoder, decoder: their tensors; of the encoder those but the network's.
        encoder_name, decoder_name: of the files.
        words: every vocabulary that was given, by file.
    """

    backbone: Backbone | None = None
    encoder: dict[str, Tensor] = field(default_factory=dict)
    decoder: dict[str, Tensor] = field(default_factory=dict)
    encoder_name: str = ""
    decoder_name: str = ""
    words: dict[str, WordList] = field(default_factory=dict)


def sort_parts(given: Sequence[Given], changes: tuple[str, ...]) -> Parts:
    """Sort files of PyTorch by what their tensors are.

    Args:
        changes: see `renamed`.

    Raises:
        AdoptError: two encoders or two decoders.
    """
    parts = Parts(words={one.name: one.words for one in given if one.words})
    for one in given:
        if not one.tensors:
            continue
        tensors = renamed(one.tensors, changes)
        backbone = find_backbone(tensors)
        rest = {name: tensor for name, tensor in tensors.items() if backbone is None or name not in backbone.keys}
        decoder = _decoder_of(rest, backbone) if is_decoder(rest) else {}
        if decoder:
            if parts.decoder:
                raise AdoptError(f"{parts.decoder_name} and {one.name} both hold a decoder: give one of them")
            parts.decoder, parts.decoder_name = decoder, one.name
        if backbone is not None:
            if parts.backbone is not None:
                raise AdoptError(f"{parts.encoder_name} and {one.name} both hold an encoder: give one of them")
            parts.backbone, parts.encoder_name = backbone, one.name
            parts.encoder = {name: tensor for name, tensor in rest.items() if name not in decoder}
        elif not decoder:
            raise AdoptError(
                f"{one.name} holds neither a network that captionkit knows (torchvision's ResNets, Inception v3) nor "
                f"an LSTM; its first tensors are {', '.join(list(tensors)[:4])}"
            )
    return parts


def _decoder_of(rest: dict[str, Tensor], backbone: Backbone | None) -> dict[str, Tensor]:
    """Of what is no network, the decoder's part: with the LSTM in one module, or in a file of their own."""
    if backbone is None:
        return rest
    lstm = next(name for name in rest if is_decoder({name: rest[name]}))
    # A module around all of it, as nn.DataParallel puts there, tells nothing.
    outer = {name.partition(".")[0] for name in (*rest, *backbone.keys)}
    around = f"{outer.pop()}." if len(outer) == 1 else ""
    first, _, inside = lstm.removeprefix(around).partition(".")
    if "." in inside:
        return {name: tensor for name, tensor in rest.items() if name.startswith(f"{around}{first}.")}
    if backbone.fc is not None:  # the network's own last layer leads to the LSTM: all else is the decoder's
        return rest
    raise AdoptError(
        "encoder and decoder are in one module, and their layers cannot be told apart; name the decoder's by --rename, "
        f"as in --rename embed=decoder.embed lstm=decoder.lstm. Beside the {backbone.name} there are {', '.join(rest)}"
    )


def choose_words(words: dict[str, WordList], rows: int, decoder: str, *, at_most: bool = False) -> tuple[str, WordList]:
    """The vocabulary that fits a decoder: its file and itself.

    Args:
        rows: of the decoder's embedding.
        decoder: the file it is in, for messages.
        at_most: whether a vocabulary may have fewer numbers than the decoder has rows, as Keras's often have.

    Raises:
        AdoptError: none was given, or none fits; the message has both numbers.
    """
    if not words:
        raise AdoptError(f"the vocabulary is missing: {decoder} knows numbers, not words. It may come as {WORDS_FORMS}")

    def fits(words: WordList) -> bool:
        return words.rows == rows or (at_most and (words.rows < rows or words.limit in (rows, rows - 1)))

    fitting = {name: found for name, found in words.items() if fits(found)}
    if not fitting:
        sizes = "; ".join(
            f"{name} has {found.rows:,} (numbers up to {found.rows - 1:,})" for name, found in words.items()
        )
        raise AdoptError(
            f"decoder and vocabulary are of different captioners: the decoder in {decoder} has {rows:,} rows for "
            f"words, and {sizes}. Find the vocabulary that was saved when this decoder was trained"
        )
    exact = {name: found for name, found in fitting.items() if found.rows == rows} or fitting
    # index → word has a word for each number; word → index may have lost one.
    name = max(exact, key=lambda name: (exact[name].what.startswith("index"), len(exact[name].words)))
    best = exact[name]
    for other_name, other in exact.items():
        if {n: best.words.get(n) for n in other.words} != other.words:
            best.notes.append(f"{other_name} numbers its words otherwise; {name} is taken")
        elif other.what.startswith("word") and best.what.startswith("index"):
            best.markers |= other.markers  # of a word with two numbers, these are what the model was fed
    return name, best
