"""ruotianluo's captioners: an adopted bundle computes what the original does, written anew from its description."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from captionkit.adopt.captioners import Adopted
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt, convert, gather
from captionkit.adopt.options import AdoptOptions
from captionkit.images import prepare
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import AttentionDecoder, ShowTell
from captionkit.model.search.options import SearchOptions
from captionkit.storage import Storage
from tests.adopt import originals
from tests.adopt.originals import WORDS, photo, save_torch

VOCABULARY = {str(number): word for number, word in enumerate([*WORDS, "UNK"], 1)}
ROWS, EMBED, HIDDEN, ATTENTION, FEATURES, LENGTH = len(VOCABULARY) + 1, 12, 16, 10, 512, 8
REAL = Path(__file__).parents[3] / "shared" / "captioner-files" / "infos-python2.pkl"
SIZE = 224
"""A map of 7 × 7, each place of which is four of the 14 × 14."""


def maxout_lstm(gates: Tensor, extra: Tensor | float, cell: Tensor) -> tuple[Tensor, Tensor]:
    """In his order: input, forget, output, and two candidates, to which something is added."""
    into, forget, out = torch.sigmoid(gates[:, : 3 * HIDDEN]).chunk(3, dim=1)
    first, second = (gates[:, 3 * HIDDEN :] + extra).chunk(2, dim=1)
    cell = forget * cell + into * torch.maximum(first, second)
    return out * torch.tanh(cell), cell


class Core(nn.Module):
    """The layers of a core by his names, whichever there are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "updown":
            self.att_lstm = nn.LSTMCell(EMBED + 2 * HIDDEN, HIDDEN)
            self.lang_lstm = nn.LSTMCell(2 * HIDDEN, HIDDEN)
        else:
            self.i2h, self.h2h = nn.Linear(EMBED, 5 * HIDDEN), nn.Linear(HIDDEN, 5 * HIDDEN)
        if kind == "att2all2":
            self.a2h = nn.Linear(HIDDEN, 5 * HIDDEN)
        elif kind.startswith("att2in"):
            self.a2c = nn.Linear(FEATURES if kind == "att2in" else HIDDEN, 2 * HIDDEN)
        if "att" in kind or kind == "updown":
            self.attention = nn.Module()
            self.attention.h2att, self.attention.alpha_net = nn.Linear(HIDDEN, ATTENTION), nn.Linear(ATTENTION, 1)


class Original(nn.Module):
    """One of his captioners: logits for what follows each token."""

    def __init__(self, kind: str, use_bn: int = 0) -> None:
        super().__init__()
        self.kind = kind
        plain = kind in ("fc", "newfc", "show_tell", "att2in")
        embedding = nn.Embedding(ROWS, EMBED)
        self.embed = embedding if plain else nn.Sequential(embedding, nn.ReLU(), nn.Dropout())
        self.logit = nn.Linear(HIDDEN, ROWS)
        if kind in ("fc", "show_tell"):
            self.img_embed = nn.Linear(FEATURES, EMBED)
        if kind == "newfc":
            self.fc_embed: nn.Module = nn.Linear(FEATURES, EMBED)
            self._core = Core(kind)
        elif kind == "show_tell":
            self.core: nn.Module = nn.LSTM(EMBED, HIDDEN, 2, bias=False)
        else:
            self.core = Core(kind)
        if kind == "updown":
            self.fc_embed = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Dropout())
        if "att" in kind or kind == "updown":
            self.ctx2att = nn.Linear(FEATURES if kind == "att2in" else HIDDEN, ATTENTION)
        if not plain:
            before = [nn.BatchNorm1d(FEATURES)] if use_bn else []
            after = [nn.BatchNorm1d(HIDDEN)] if use_bn == 2 else []
            self.att_embed = nn.Sequential(*before, nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Dropout(), *after)

    def attend(self, hidden: Tensor, places: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        attention: Any = self.core.attention
        energy = attention.alpha_net(torch.tanh(keys + attention.h2att(hidden).unsqueeze(1))).squeeze(2)
        alpha = torch.softmax(energy, dim=1)
        return (places * alpha.unsqueeze(2)).sum(dim=1), alpha

    def forward(self, fc: Tensor, att: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        zeros = fc.new_zeros(len(fc), HIDDEN)
        if self.kind == "show_tell":
            inputs = torch.cat([self.img_embed(fc).unsqueeze(1), self.embed(tokens)], dim=1)
            return self.logit(self.core(inputs.transpose(0, 1))[0].transpose(0, 1)[:, 1:]), None
        if self.kind in ("fc", "newfc"):
            core: Any = self._core if self.kind == "newfc" else self.core
            inputs = [(self.fc_embed if self.kind == "newfc" else self.img_embed)(fc), *self.embed(tokens).unbind(1)]
            hidden, cell, outs = zeros, zeros, []
            for word in inputs:
                hidden, cell = maxout_lstm(core.i2h(word) + core.h2h(hidden), 0.0, cell)
                outs.append(self.logit(hidden))
            return torch.stack(outs[1:], dim=1), None
        core = self.core
        places = att if self.kind == "att2in" else self.att_embed(att.flatten(0, 1)).view(*att.shape[:2], HIDDEN)
        keys = self.ctx2att(places)
        outs, alphas = [], []
        first, second = (zeros, zeros), (zeros, zeros)
        for word in self.embed(tokens).unbind(1):
            if self.kind == "updown":
                first = core.att_lstm(torch.cat([second[0], self.fc_embed(fc), word], dim=1), first)
                context, alpha = self.attend(first[0], places, keys)
                second = core.lang_lstm(torch.cat([context, first[0]], dim=1), second)
                outs.append(self.logit(second[0]))
            else:
                context, alpha = self.attend(first[0], places, keys)
                gates = core.i2h(word) + core.h2h(first[0])
                if self.kind == "att2all2":
                    first = maxout_lstm(gates + core.a2h(context), 0.0, first[1])
                else:
                    first = maxout_lstm(gates, core.a2c(context), first[1])
                outs.append(self.logit(first[0]))
            alphas.append(alpha)
        return torch.stack(outs, dim=1), torch.stack(alphas, dim=1)

    def logprobs(self, fc: Tensor, att: Tensor, ids: list[int]) -> Tensor:
        """Of the word after 0 and some words, for one image."""
        return torch.log_softmax(self(fc, att, torch.tensor([[0, *ids]]))[0][0, -1], dim=0)

    def greedy(self, fc: Tensor, att: Tensor) -> str:
        """0 begins and ends."""
        ids: list[int] = []
        while len(ids) < LENGTH and (best := int(self.logprobs(fc, att, ids).argmax())):
            ids.append(best)
        return " ".join(VOCABULARY[str(number)] for number in ids)

    def beam(self, fc: Tensor, att: Tensor, width: int) -> str:
        """The best by the sum of log-probabilities; what has ended no longer takes a place."""
        live, ended = [(0.0, list[int]())], list[tuple[float, list[int]]]()
        for _ in range(LENGTH):
            longer = []
            for total, ids in live:
                scores = self.logprobs(fc, att, ids)
                longer += [(total + float(score), [*ids, number]) for number, score in enumerate(scores)]
            longer.sort(reverse=True)
            ended += [(total, ids[:-1]) for total, ids in longer[:width] if ids[-1] == 0]
            live = [(total, ids) for total, ids in longer if ids[-1]][:width]
        return " ".join(VOCABULARY[str(number)] for number in max(ended or live)[1])


class Resnet(nn.Module):
    """His ResNet, small: Caffe's pooling, no padding and the edges rounded up. (The strides differ in deeper ones.)"""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = torchvision.models.resnet18(weights=None)
        self.resnet.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the map, and 14 × 14 places."""
        maps = nn.Sequential(*list(self.resnet.children())[:-2])(pixels)
        places = functional.adaptive_avg_pool2d(maps, 14)
        return maps.mean(dim=(2, 3)), places.flatten(2).transpose(1, 2)


class OldPickler(pickle._Pickler):
    """Writes text as Python 2 wrote its `str`: an opcode that Python 3 no longer uses."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_old(self, text: str) -> None:
        self.write(b"S" + repr(text).encode() + b"\n")  # type: ignore[attr-defined]
        self.memoize(text)  # type: ignore[attr-defined]

    dispatch[str] = save_old


def save_infos(path: Path, kind: str, old: bool, **options: Any) -> Path:
    """`infos_….pkl`: options and words, of Python 2 with protocol 0 or of Python 3."""
    opt = Namespace(caption_model=kind, rnn_size=HIDDEN, seq_length=LENGTH, start_from=None, **options)
    infos = {"iter": 7, "opt": opt, "vocab": VOCABULARY, "best_val_score": 0.9}
    if not old:
        return originals.save_pickle(infos, path)
    file = BytesIO()
    OldPickler(file, 0).dump(infos)
    path.write_bytes(file.getvalue())
    assert b"ccopy_reg" in path.read_bytes()
    return path


def make(kind: str, use_bn: int = 0) -> Original:
    torch.manual_seed(0)
    made = Original(kind, use_bn).eval()
    originals.sharpen(made, 3)
    with torch.no_grad():
        made.logit.bias[-1] -= 30.0  # no caption with an unknown word
    return made


def pixels(image: Image.Image) -> Tensor:
    array = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255
    normal = (array - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Resnet, Path]:
    torch.manual_seed(1)
    made = Resnet().eval()
    state = OrderedDict((k, t) for k, t in made.resnet.state_dict().items() if not k.endswith("num_batches_tracked"))
    return made, save_torch(state, tmp_path_factory.mktemp("weights") / "resnet18.pth", legacy=True)


def adopted(*files: Path, **options: Any) -> Adopted:
    """Without a bundle, which would be written and read for nothing."""
    asked = AdoptOptions(tuple(map(str, files)), "", **{"preprocessing": (f"size={SIZE}",), **options})
    return convert(gather(asked.files, Storage()).given, asked)


@pytest.mark.parametrize(
    ("kind", "use_bn", "old"),
    [
        ("fc", 0, True),
        ("newfc", 0, False),
        ("show_tell", 0, True),
        ("att2in", 0, False),
        ("att2in2", 0, True),
        ("att2in2", 2, False),
        ("att2all2", 1, False),
        ("updown", 0, False),
        ("updown", 2, True),
    ],
)
@torch.no_grad()
def test_his_captioners_say_what_they_said(
    kind: str, use_bn: int, old: bool, resnet: tuple[Resnet, Path], tmp_path: Path
) -> None:
    network, weights = resnet
    original = make(kind, use_bn)
    state = original.state_dict()
    if kind == "att2in":  # as it was saved first
        state = {name.replace("core.attention.", "core."): tensor for name, tensor in state.items()}
    model = save_torch(state, tmp_path / "model-best.pth", legacy=old)
    made = adopted(save_infos(tmp_path / "infos.pkl", kind, old, use_bn=use_bn), weights, model)
    assert made.kind == "ruotianluo"
    assert any(f": {kind}; it wrote at most {LENGTH} words" in line for line in made.exact)
    captioner = made.captioner
    # 0 is padding, start and end of captionkit's, and never predicted as the first two.
    new = [captioner.vocabulary.words.index(VOCABULARY[str(n)] if n < ROWS - 1 else "<unk>") for n in range(1, ROWS)]
    tokens = torch.tensor([[0, 3, 9, 1, 3]])
    moved = torch.tensor([[1, *(new[n - 1] for n in tokens[0, 1:])]])
    said = set()
    for seed in (0, 1):
        fc, att = network(pixels(photo(seed)))
        expected, alphas = original(fc, att, tokens)
        features = captioner.encode(prepare(photo(seed), captioner.preprocessing)[None])
        found = captioner.decoder(features, moved)
        torch.testing.assert_close(found[..., [2, *new]], expected, rtol=1e-3, atol=2e-4)
        assert float(torch.softmax(found, dim=2)[..., [0, 1]].max()) == 0
        if alphas is not None:
            assert isinstance(captioner.decoder, AttentionDecoder)
            torch.testing.assert_close(captioner.decoder.attend(features, moved)[1], alphas, rtol=1e-2, atol=1e-4)
        for width, text in ((1, original.greedy(fc, att)), (3, original.beam(fc, att, 3))):
            search = SearchOptions(beam=width, max_length=LENGTH, min_length=0, length_penalty="none")
            [[caption]] = captioner.caption_features(features, search, banned=())
            assert caption.text == text
            said.add(text)
    assert any(" " in text for text in said)


@torch.no_grad()
def test_a_folder_of_his_becomes_a_bundle_that_captions(resnet: tuple[Resnet, Path], tmp_path: Path) -> None:
    folder, original = tmp_path / "log_fc", make("fc")
    folder.mkdir()
    save_infos(folder / "infos_fc-best.pkl", "fc", True)
    save_infos(folder / "infos_fc.pkl", "fc", True)
    save_torch(make("fc").state_dict(), folder / "model.pth")
    save_torch({f"module.{name}": t for name, t in original.state_dict().items()}, folder / "model-best.pth")
    save_torch({"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": []}, folder / "optimizer.pth")
    photo(0).save(tmp_path / "photo.png")
    files, tried = (str(folder), str(resnet[1])), (str(tmp_path / "photo.png"),)
    log: list[str] = []
    options = AdoptOptions(files, str(tmp_path / "bundle"), preprocessing=(f"size={SIZE}",), try_images=tried)
    adopt(options, log.append)
    assert "kind: ruotianluo (--kind forces another)" in log
    assert any(line.startswith("approximated: images:") for line in log)
    captioner = Captioner.load(tmp_path / "bundle", device="cpu", dtype="float32")
    [caption] = captioner.caption([photo(0)], beam=1, max_length=LENGTH)
    assert caption.text == original.greedy(*resnet[0](pixels(photo(0))))
    assert captioner.encoder.config["name"] == "caffe_resnet18"
    assert captioner.provenance["adopted"]["kind"] == "ruotianluo"


def test_what_is_missing_or_another_network_is_said(resnet: tuple[Resnet, Path], tmp_path: Path) -> None:
    weights, state = resnet[1], make("att2in2").state_dict()
    infos = save_infos(tmp_path / "infos.pkl", "att2in2", False)
    model = save_torch(state, tmp_path / "model.pth")
    with pytest.raises(AdoptError, match=r"encoder is missing: it is resnet101\.pth"):
        adopted(infos, model)
    with pytest.raises(AdoptError, match=r"vocabulary is missing"):
        adopted(weights, model)
    with pytest.raises(AdoptError, match=r"it was trained with norm_att_feat"):
        adopted(save_infos(tmp_path / "scaled.pkl", "att2in2", False, norm_att_feat=1), weights, model)
    found = adopted(
        save_infos(tmp_path / "regions.pkl", "att2in2", False, input_att_dir="data/cocobu_att"), weights, model
    )
    assert any("object detector" in line for line in found.approximated)
    assert found.captioner.preprocessing.size == SIZE
    cases = {
        "tensors that ruotianluo's att2in2 does not have: len_fc": state | {"len_fc.weight": torch.ones(2, 2)},
        r"lacks core\.attention\.alpha_net\.bias": {k: t for k, t in state.items() if not k.endswith("alpha_net.bias")},
        "output of several layers": {k.replace("logit.", "logit.0."): t for k, t in state.items()},
        "none of the captioners of ruotianluo's": {k.replace("a2c", "other"): t for k, t in state.items()},
        "the decoder reads 20": {k: t[:, :20] if k == "att_embed.0.weight" else t for k, t in state.items()},
    }
    for message, tensors in cases.items():
        with pytest.raises(AdoptError, match=message):
            adopted(infos, weights, save_torch(tensors, tmp_path / "other.pth"))
    transformer = save_torch({"model.encoder.layers.0.weight": torch.ones(2, 2)}, tmp_path / "transformer.pth")
    with pytest.raises(AdoptError, match=r"no file holds a decoder of ruotianluo's.*infos are of 'transformer'"):
        adopted(save_infos(tmp_path / "transformer.pkl", "transformer", False), weights, transformer)


@pytest.mark.parametrize("kind", ["att2in2", "updown"])
@torch.no_grad()
def test_regions_of_a_detector_are_captioned_without_an_encoder(kind: str, tmp_path: Path) -> None:
    """Any number of them; the whole image is their mean, where nothing else is there."""
    original = make(kind)
    model = save_torch(original.state_dict(), tmp_path / "model.pth")
    infos = save_infos(tmp_path / "infos.pkl", kind, True, input_att_dir="data/cocobu_att", norm_att_feat=1)
    made = adopted(infos, model, encoder="none")
    assert made.notes == ["it was trained with norm_att_feat: it captions places that are made so"]
    captioner = made.captioner
    for count in (10, 36):
        regions = torch.rand(1, count, FEATURES, generator=torch.Generator().manual_seed(count))
        search = SearchOptions(beam=1, max_length=LENGTH, min_length=0)
        [[caption]] = captioner.caption_features(regions, search, banned=())
        assert caption.text == original.greedy(regions.mean(dim=1), regions)


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/captioner-files")
def test_real_infos_fit_a_decoder_of_their_size(resnet: tuple[Resnet, Path], tmp_path: Path) -> None:
    state, rows = make("fc").state_dict(), 2_295
    state["embed.weight"] = torch.randn(rows, EMBED)
    state |= {"logit.weight": torch.randn(rows, HIDDEN), "logit.bias": torch.randn(rows)}
    made = adopted(REAL, resnet[1], save_torch(state, tmp_path / "model.pth"))
    assert any("fc; it wrote at most 60 words" in line for line in made.exact)
    vocabulary, decoder = made.captioner.vocabulary, made.captioner.decoder
    assert len(vocabulary) == 2_294 + 4  # its words, none of them unknown, and the markers
    assert isinstance(decoder, ShowTell)
    assert torch.equal(decoder.words.weight[vocabulary.id("arrives")], state["embed.weight"][1])


def test_the_usual_geometry_gives_places_that_are_not_averaged(resnet: tuple[Resnet, Path], tmp_path: Path) -> None:
    model = save_torch(make("updown").state_dict(), tmp_path / "model.pth")
    infos = save_infos(tmp_path / "infos.pkl", "updown", False)
    captioner = adopted(infos, resnet[1], model, preprocessing=()).captioner
    assert captioner.preprocessing.to_json() | {"mean": 0, "std": 0} == {
        "size": 448, "resize": 448, "mode": "squash", "interpolation": "bilinear", "mean": 0, "std": 0,
    }  # fmt: skip
    network: Any = captioner.encoder.network
    assert network(torch.zeros(1, 3, 448, 448))["map"].shape[2:] == (14, 14)
    named = adopted(infos, model, encoder="resnet18", encoder_weights=str(resnet[1])).captioner
    assert named.encoder.config["name"] == "resnet18"
    without = adopted(infos, model, encoder="none").captioner
    assert without.encoder.config == {"name": "none", "output": "grid", "layer": None, "features": FEATURES}
