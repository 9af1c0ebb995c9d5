"""The PyTorch tutorial's family: an adopted bundle says what the original says."""

from __future__ import annotations

import collections
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from captionkit.adopt.captioners import Adopted
from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt
from captionkit.adopt.options import AdoptOptions
from captionkit.adopt.words import to_rows
from captionkit.images import prepare
from captionkit.model.captioner import Captioner
from captionkit.vocabulary import BOS
from tests.adopt import originals
from tests.adopt.originals import WORDS, Decoder, Encoder, Vocabulary, photo, save_pickle, save_torch

SPECIAL = ["<pad>", "<start>", "<end>", "<unk>"]
ALL = [*SPECIAL, *WORDS]
EMBED, HIDDEN = 24, 32


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


def make_encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(EMBED).eval()
    originals.sharpen(encoder.linear, 1)
    with torch.no_grad():  # features of random networks hardly differ: let the batch norm tell them apart
        features = encoder.linear(
            encoder.resnet(torch.cat([originals.tutorial_pixels(photo(n)) for n in range(8)])).flatten(1)
        )
        encoder.bn.running_mean.copy_(features.mean(0))
        encoder.bn.running_var.copy_(features.var(0))
        encoder.bn.weight.mul_(2).add_(0.1)
        encoder.bn.bias.add_(0.3)
    return encoder


def make_decoder(words: int = len(ALL), layers: int = 1) -> Decoder:
    decoder = Decoder(words, EMBED, HIDDEN, layers).eval()
    originals.sharpen(decoder, 2)
    with torch.no_grad():  # a trained one writes neither padding nor the start marker
        decoder.linear.bias[:2] -= 20
        decoder.linear.bias[2] += 1
    return decoder


def run(tmp_path: Path, *files: Path, **options: Any) -> tuple[Adopted, Captioner, list[str]]:
    """Adopt files; what was written, and what was printed."""
    lines: list[str] = []
    adopted, _ = adopt(
        AdoptOptions(tuple(map(str, files)), str(tmp_path / "bundle"), try_images=(str(picture(tmp_path)),), **options),
        lines.append,
    )
    return adopted, Captioner.load(tmp_path / "bundle", dtype="float32", device="cpu"), lines


def picture(tmp_path: Path) -> Path:
    photo(0).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def assert_same(
    captioner: Captioner,
    encoder: Any,
    decoder: Decoder,
    words: list[str],
    pixels: Callable[[Image.Image], Any],
    markers: tuple[str, str] = ("<start>", "<end>"),
) -> None:
    """Features, logits and greedy captions of some images agree."""
    numbers = [number for number, word in enumerate(words)]
    old = {word: number for number, word in enumerate(words)}
    spelled = {markers[0]: "<start>", markers[1]: "<end>"}
    for alias, name in (("<PAD>", "<pad>"), ("<UNK>", "<unk>")):
        spelled[alias] = name
    new = [captioner.vocabulary.words.index(spelled.get(word, word)) for word in words]
    texts = set()
    for seed in range(4):
        image = photo(seed)
        with torch.no_grad():
            features = encoder(pixels(image))
            tokens = torch.tensor([[old[markers[0]], 5, 9, 7]])
            expected = decoder(features, tokens)[:, 1:]
            found_features = captioner.encode(prepare(image, captioner.preprocessing)[None])
            translated = torch.tensor([[BOS, *(new[n] for n in tokens[0, 1:].tolist())]])
            found = captioner.decoder(found_features, translated)
        torch.testing.assert_close(found[..., new], expected[..., numbers], rtol=2e-4, atol=2e-4)
        probabilities = torch.softmax(found, dim=-1)[..., new]
        torch.testing.assert_close(probabilities, torch.softmax(expected, dim=-1), rtol=1e-3, atol=1e-5)
        said = originals.words_of(decoder.sample(features, old[markers[0]]), words, markers)
        text = captioner.caption([image], beam=1, max_length=19, min_length=0, banned=())[0].text or ""
        assert text == said.replace("<UNK>", "<unk>")
        texts.add(text)
    assert len(texts) > 1  # else the encoder could be anything


@pytest.mark.parametrize(("legacy", "protocol"), [(False, 4), (True, 2)])
def test_the_tutorials_files_say_what_they_said(encoder: Encoder, tmp_path: Path, legacy: bool, protocol: int) -> None:
    decoder = make_decoder()
    files = (
        save_pickle(Vocabulary(ALL), tmp_path / "vocab.pkl", protocol),
        save_torch(decoder.state_dict(), tmp_path / "decoder-5-3000.pkl", legacy),
        save_torch(encoder.state_dict(), tmp_path / "encoder-5-3000.pkl", legacy),
    )
    adopted, captioner, lines = run(tmp_path, *files)
    assert adopted.kind == "tutorial"
    assert_same(captioner, encoder, decoder, ALL, originals.tutorial_pixels)
    assert any("24 words" in line for line in lines)
    assert lines.index("kind: tutorial (--kind forces another)") > max(
        number for number, line in enumerate(lines) if line.startswith(str(tmp_path)) and "tensors" in line
    )
    assert captioner.provenance["adopted"]["kind"] == "tutorial"


def test_a_folder_is_enough(encoder: Encoder, tmp_path: Path) -> None:
    decoder = make_decoder()
    models = tmp_path / "models"
    models.mkdir()
    (models / "train.py").write_text("import torch\n")
    (models / "cat.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (models / "old.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n")
    save_torch({"epoch": 3, "state_dict": decoder.state_dict()}, models / "x1")
    save_torch(encoder.state_dict(), models / "x2")
    words = tmp_path / "words.json"
    words.write_text(json.dumps({word: number for number, word in enumerate(ALL)}))
    _, captioner, lines = run(tmp_path, models, words)
    assert_same(captioner, encoder, decoder, ALL, originals.tutorial_pixels)
    assert any("left out" in line and "1,234,567 bytes" in line for line in lines)
    assert "passed over: 2 other files" in lines


class Udacity:
    """The ten attributes of Udacity's Vocabulary: no padding."""

    def __init__(self, words: list[str]) -> None:
        self.vocab_threshold, self.vocab_file, self.vocab_from_file = 5, "./vocab.pkl", True
        self.start_word, self.end_word, self.unk_word = "<start>", "<end>", "<unk>"
        self.annotations_file = "captions.json"
        self.word2idx = {word: number for number, word in enumerate(words)}
        self.idx2word = dict(enumerate(words))
        self.idx = len(words)


def usual_pixels(image: Image.Image) -> torch.Tensor:
    """Resize to 256, the middle 224: torchvision's transforms."""
    from torchvision import transforms

    return transforms.Compose([  # type: ignore[no-any-return]
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])(image).unsqueeze(0)  # fmt: skip


def test_udacitys_files_say_what_they_said(encoder: Encoder, tmp_path: Path) -> None:
    words = ["<start>", "<end>", "<unk>", *WORDS]
    decoder = make_decoder(len(words), layers=2)
    with torch.no_grad():
        decoder.linear.bias[1] += 20  # the end, here where others have the start
    files = (
        save_torch(originals.renamed(encoder, linear="embed"), tmp_path / "encoder-3.pkl"),
        save_torch(
            originals.renamed(decoder, embed="word_embeddings", linear="hidden2vocab"), tmp_path / "decoder-3.pkl"
        ),
        save_pickle(Udacity(words), tmp_path / "vocab.pkl"),
    )
    adopted, captioner, _ = run(tmp_path, *files)
    assert adopted.kind == "udacity"
    assert adopted.approximated
    assert_same(captioner, encoder, decoder, words, usual_pixels)
    _, captioner, _ = run(tmp_path, *files, kind="tutorial")
    assert_same(captioner, encoder, decoder, words, originals.tutorial_pixels)


class Stoi:
    def __init__(self, words: list[str]) -> None:
        self.freq_threshold = 5
        self.itos = dict(enumerate(words))
        self.stoi = {word: number for number, word in enumerate(words)}


@pytest.mark.slow
def test_the_variant_with_inception_says_what_it_said(tmp_path: Path) -> None:
    words = ["<PAD>", "<SOS>", "<EOS>", "<UNK>", *WORDS]
    torch.manual_seed(0)
    encoder, decoder = originals.InceptionEncoder(EMBED).eval(), make_decoder(len(words))
    originals.sharpen(encoder.inception.fc, 3)
    with torch.no_grad():  # as in `encoder`: let features of a random network differ
        seen = torch.cat([inception_pixels(photo(n)) for n in range(4)])
        encoder.inception.fc.bias.zero_()
        encoder.inception.fc.weight.div_(encoder.inception(seen).std() + 1e-9)
        encoder.inception.fc.bias.sub_(encoder.inception(seen).mean(0))
    whole = {
        **originals.renamed(encoder),
    }
    state = collections.OrderedDict(
        [(f"encoderCNN.{key}", tensor) for key, tensor in whole.items()]
        + [(f"decoderRNN.{key}", tensor) for key, tensor in decoder.state_dict().items()]
    )
    files = (
        save_torch({"state_dict": state, "optimizer": {"lr": 1}, "step": 4}, tmp_path / "my_checkpoint.pth.tar"),
        save_pickle(Stoi(words), tmp_path / "vocab.pkl"),
    )
    adopted, captioner, _ = run(tmp_path, *files)
    assert adopted.kind == "inception"
    assert_same(captioner, encoder, decoder, words, inception_pixels, ("<SOS>", "<EOS>"))


def inception_pixels(image: Image.Image) -> torch.Tensor:
    from torchvision import transforms

    return transforms.Compose([  # type: ignore[no-any-return]
        transforms.Resize((299, 299)), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ])(image).unsqueeze(0)  # fmt: skip


def test_whole_modules_are_read_without_their_classes(encoder: Encoder, tmp_path: Path) -> None:
    decoder = make_decoder()
    for legacy in (False, True):
        save_torch({"epoch": 1, "encoder": encoder, "decoder": decoder}, tmp_path / "best.pth.tar", legacy)
        _, captioner, _ = run(tmp_path, tmp_path / "best.pth.tar", save_pickle(ALL, tmp_path / "words.pkl"))
        assert_same(captioner, encoder, decoder, ALL, originals.tutorial_pixels)


@pytest.mark.parametrize("name", ["resnet34", "resnext50_32x4d"])
def test_the_networks_depth_is_found(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder(EMBED, getattr(torchvision.models, name), norm=False), make_decoder()
    state = {key: tensor for key, tensor in encoder.state_dict().items() if "num_batches_tracked" not in key}
    _, captioner, _ = run(
        tmp_path, save_torch(state, tmp_path / "e"), save_torch(decoder.state_dict(), tmp_path / "d"),
        save_pickle(Vocabulary(ALL), tmp_path / "v"),
    )  # fmt: skip
    assert captioner.encoder.config["name"] == name


def layouts() -> dict[str, Any]:
    forward, inverse = {word: number for number, word in enumerate(ALL)}, dict(enumerate(ALL))
    shuffled = dict(sorted(forward.items()))
    return {
        "dictionary of two": {"word2idx": forward, "idx2word": inverse, "word_freq": dict.fromkeys(WORDS, 9)},
        "two dictionaries": [forward, inverse],
        "index to word": inverse,
        "word to index, by alphabet": shuffled,
        "list": ALL,
        "torchtext": {"itos": ALL, "stoi": collections.defaultdict(int, forward), "freqs": collections.Counter(ALL)},
        "text digits": {str(number): word for number, word in inverse.items()},
        "with counts": {word: {"Rep": number, "count": 3} for word, number in forward.items()},
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", layouts())
def test_every_layout_of_a_vocabulary_gives_the_same_words(name: str, protocol: int) -> None:
    given = look(pickle.dumps(layouts()[name], protocol), "v")
    assert given.words is not None
    assert to_rows(given.words, 24, 24).vocabulary.words == tuple(ALL)


def test_what_is_missing_or_does_not_fit_is_named(encoder: Encoder, tmp_path: Path) -> None:
    e = save_torch(encoder.state_dict(), tmp_path / "e")
    d = save_torch(make_decoder().state_dict(), tmp_path / "d")
    v = save_pickle(Vocabulary(ALL), tmp_path / "v")
    short = save_pickle(Vocabulary(ALL[:-1]), tmp_path / "short")
    narrow = save_torch(Encoder(EMBED - 1).state_dict(), tmp_path / "narrow")
    gru = save_torch({"embed.weight": torch.ones(24, 8), "unit.weight_ih_l0": torch.ones(24, 8),
                      "unit.weight_hh_l0": torch.ones(24, 8)}, tmp_path / "gru")  # fmt: skip
    other = save_torch({**make_decoder().state_dict(), "attend.weight": torch.ones(3, 3)}, tmp_path / "other")
    for files, complaint in (
        ((e, v), "decoder is missing"),
        ((d, v), "encoder is missing"),
        ((e, d), "vocabulary is missing.*It may come as"),
        ((e, d, short), "24 rows for words.*short has 23"),
        ((narrow, d, v), "23 values and the LSTM.*reads 24"),
        ((e, gru, v), "is a GRU"),
        ((e, other, v), r"attend.weight \(3, 3\)"),
        ((e, e, d, v), "both hold an encoder"),
        ((v,), "the weights are missing"),
    ):
        with pytest.raises(AdoptError, match=complaint):
            run(tmp_path, *files)
    assert not (tmp_path / "bundle").exists()


def test_names_and_markers_can_be_given(encoder: Encoder, tmp_path: Path) -> None:
    words = ["-", "anfang", "ende", "<unk>", *WORDS]
    decoder = make_decoder()
    files = (
        save_torch(encoder.state_dict(), tmp_path / "e"),
        save_torch(originals.renamed(decoder, lstm="strange"), tmp_path / "d"),
        save_pickle(words, tmp_path / "v"),
    )
    with pytest.raises(AdoptError, match=r"no start marker.*--markers start=WORD"):
        run(tmp_path, *files)
    _, captioner, _ = run(
        tmp_path, *files, rename=("strange=lstm",), markers=("start=anfang", "end=2", "pad=0"),
        preprocessing=("size=64", "interpolation=bilinear"),
    )  # fmt: skip
    assert captioner.vocabulary.words == tuple(ALL)
    assert captioner.preprocessing.size == 64
    for bad in ({"markers": ("start=nie",)}, {"markers": ("x",)}, {"preprocessing": ("size=x",)},
                {"preprocessing": ("colour=red",)}, {"rename": ("x",)}):  # fmt: skip
        with pytest.raises(AdoptError, match="--"):
            run(tmp_path, *files, **bad)  # type: ignore[arg-type]
