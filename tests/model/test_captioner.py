"""Images in, captions out: every kind of image, the bad ones too, in any batch."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from captionkit.errors import UsageError
from captionkit.images import decode
from captionkit.model.bundle_files import BundleError
from captionkit.model.captioner import Captioner, Hypothesis
from captionkit.model.decoders import ShowTell
from captionkit.model.encoders import build_encoder
from captionkit.model.search import SearchOptions
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage, StorageError
from captionkit.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.model.conftest import encoded, patches


@pytest.fixture
def pixels(captioner: Captioner) -> NDArray[np.uint8]:
    return np.stack([decode(encoded(seed), captioner.preprocessing).pixels for seed in range(12)])


def test_every_kind_of_image(captioner: Captioner, tmp_path: Path) -> None:
    data = encoded(1)
    path = tmp_path / "one.png"
    path.write_bytes(data)
    image = patches(1)
    kinds = [str(path), path, f"file://{path}", data, image, image, Image.open(path)]
    captions = captioner.caption(kinds)
    assert captions[0].text
    assert captions[0].score is not None
    assert captions[0].score < 0
    assert captions[0].alternatives == ()
    assert captions == [captions[0]] * len(kinds)


def test_bad_images_cost_no_other(captioner: Captioner, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(encoded(2, "JPEG")[:-200])
    good = captioner.caption([encoded(1), encoded(3)], n_best=2)
    mixed = captioner.caption(
        [b"", encoded(1), b"no image", str(tmp_path / "none.png"), cut, encoded(3), Image.open(cut)],
        n_best=2,
        batch_size=2,
    )
    kinds = [caption.error_kind for caption in mixed]
    assert kinds == ["empty", None, "not_an_image", "not_found", "truncated", None, "truncated"]
    assert [caption.text for caption in (mixed[1], mixed[5])] == [caption.text for caption in good]
    for caption in mixed:
        assert (caption.text is None) == (caption.error is not None)
        if caption.error is not None:
            assert (caption.score, caption.alternatives) == (None, ())
            assert "\n" not in caption.error
    assert all(len(caption.alternatives) == 1 for caption in good)


def test_only_bad_images_and_none_at_all(captioner: Captioner) -> None:
    assert captioner.caption([]) == []
    assert [caption.error_kind for caption in captioner.caption([b"", b""])] == ["empty", "empty"]


def test_what_fails_every_image_is_raised(captioner: Captioner) -> None:
    class Locked(Storage):
        def read(self, uri: str, column: str | None = None) -> bytes:
            raise StorageError("permission", "no credentials", fatal=True)

    with pytest.raises(StorageError, match="no credentials"):
        captioner.caption(["s3://bucket/a.jpg"] * 100, storage=Locked(), batch_size=3)
    with pytest.raises(UsageError):
        captioner.caption(["gopher://a/b.jpg"])


@pytest.mark.parametrize("images", ["one.jpg", Path("one.jpg"), b"\xff\xd8", patches(1)])
def test_one_image_is_no_list(captioner: Captioner, images: object) -> None:
    with pytest.raises(UsageError, match=r"takes a list of images: caption\(\[image\]\)"):
        captioner.caption(images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam": 0}, r"beam is a whole number of at least 1, not 0 \(search options: method, beam, n_best"),
        ({"width": 3}, r"width.*\(search options: method"),
        ({"banned": ["unicorn"]}, "banned: the captioner does not know 'unicorn'"),
        ({"banned": ["<end>"]}, "the end of a caption cannot be banned"),
        ({"prefix": "a Unicorn!"}, "prefix: the captioner does not know 'unicorn'"),
        ({"prefix": "a dog and a cat", "max_length": 5}, "leaves no room"),
        ({"batch_size": 0}, "batch_size is at least 1"),
    ],
)
def test_options_that_are_refused(captioner: Captioner, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        captioner.caption([encoded(1)], **arguments)  # type: ignore[arg-type]


def test_banned_words_and_a_prefix(captioner: Captioner) -> None:
    images = [encoded(seed) for seed in range(6)]
    used = {word for caption in captioner.caption(images, n_best=3) for word in (caption.text or "").split()}
    assert len(used) > 3
    word = sorted(used)[0]
    for caption in captioner.caption(images, n_best=3, banned=[word, "<unk>"], prefix="Two dog"):
        for text in (caption.text or "", *(other.text for other in caption.alternatives)):
            assert text.startswith("two dog")
            assert word not in text.split()


def test_batches_change_nothing(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    for options in (
        SearchOptions(n_best=3),
        SearchOptions(beam=1),
        SearchOptions(beam=4, groups=2, n_best=2, no_repeat_ngram=2),
        SearchOptions(method="sample", n_best=2, top_p=0.9),
    ):
        together = captioner.caption_pixels(pixels, options)
        assert len({captions[0].text for captions in together}) > 1
        alone = [captioner.caption_pixels(pixels[i : i + 1], options)[0] for i in range(len(pixels))]
        backwards = captioner.caption_pixels(pixels[::-1], options)[::-1]
        for other in (alone, backwards):
            assert [[c.text for c in captions] for captions in other] == [[c.text for c in row] for row in together]
            scores = [[c.score for c in captions] for captions in other]
            for found, expected in zip(scores, [[c.score for c in row] for row in together], strict=True):
                assert found == pytest.approx(expected, rel=1e-4)


def test_batches_change_nothing_at_real_sizes() -> None:
    """Matrices of the sizes at which a library chooses other kernels for other batches."""
    torch.manual_seed(0)
    encoder = build_encoder("squeezenet1_1", weights="none")
    decoder = ShowTell(ShowTell.Config(vocab_size=1661, feature_size=encoder.feature_size))
    vocabulary = Vocabulary((*SPECIAL_WORDS, *(f"w{number}" for number in range(1657))))
    captioner = Captioner(encoder, decoder, vocabulary)
    pixels = np.stack([decode(encoded(seed), captioner.preprocessing).pixels for seed in range(10)])
    features = captioner.encode(pixels)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(4)
        decoder.image.weight.div_(features.std(dim=0).clamp_min(1e-3))
        decoder.image.bias.copy_(-decoder.image.weight @ features.mean(dim=0))
    options = SearchOptions(beam=5, n_best=5, min_length=4, max_length=12)
    together = captioner.caption_pixels(pixels, options)
    assert len({captions[0].text for captions in together}) == 10
    for size in (1, 3):
        parts = [
            captions
            for start in range(0, 10, size)
            for captions in captioner.caption_pixels(pixels[start : start + size], options)
        ]
        for found, expected in zip(parts, together, strict=True):
            assert [c.text for c in found] == [c.text for c in expected]
            assert [c.score for c in found] == pytest.approx([c.score for c in expected], rel=1e-5)


def test_a_sample_is_of_its_pixels_and_seed(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    def texts(chosen: NDArray[np.uint8], seed: int) -> list[str]:
        options = SearchOptions(method="sample", seed=seed, temperature=2.0)
        return [captions[0].text for captions in captioner.caption_pixels(chosen, options)]

    assert texts(pixels, 0) == texts(pixels, 0)
    assert texts(pixels, 0) != texts(pixels, 1)
    assert len(set(texts(np.repeat(pixels[:1], 5, axis=0), 0))) == 1


def test_scores_are_nats_per_token(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    """Whatever the captions are ranked by, and worked out anew by teacher forcing."""
    for kind in ("none", "average", "reward"):
        options = SearchOptions(length_penalty=kind, max_length=6)  # type: ignore[arg-type]
        best = captioner.caption_pixels(pixels[:1], options)[0][0]
        words = captioner.vocabulary.encode(best.text)
        tokens = [1, *words, *([2] if len(words) < 6 else [])]
        with torch.no_grad():
            logits = captioner.decoder(captioner.encode(pixels[:1]), torch.tensor([tokens[:-1]]))
        logprobs = torch.log_softmax(logits[0], dim=1)[range(len(tokens) - 1), tokens[1:]]
        assert best.score == pytest.approx(logprobs.mean().item(), rel=1e-4)


def test_read_only_memory_and_views(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    expected = captioner.caption_pixels(pixels[:3], SearchOptions())
    locked = pixels[:3].copy()
    locked.flags.writeable = False
    strided = np.repeat(pixels[:3], 2, axis=0)[::2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captioner.caption_pixels(locked, SearchOptions()) == expected
        assert captioner.caption_pixels(strided, SearchOptions()) == expected


def test_features(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    assert captioner.encode(pixels).shape == (12, 512)
    assert captioner.caption_pixels(pixels[:0], SearchOptions()) == []
    for wrong in (pixels[0], pixels[:, :32], pixels.astype(np.float32)):
        with pytest.raises(ValueError, match=r"pixels are uint8 \(N, 64, 64, 3\) here"):
            captioner.encode(wrong)


def test_a_model_that_generates_no_words(captioner: Captioner) -> None:
    with torch.no_grad():
        captioner.decoder.get_parameter("output.bias")[2] = 1000.0
        [empty] = captioner.caption([encoded(1)], min_length=0)
        assert (empty.text, empty.error_kind, empty.error) == (
            None,
            "model_error",
            "the captioner gave an empty caption",
        )
        assert len((captioner.caption([encoded(1)])[0].text or "").split()) == 1
        captioner.decoder.get_parameter("output.bias")[2] = torch.nan
    [broken] = captioner.caption([encoded(1)])
    assert (broken.text, broken.error_kind) == (None, "model_error")
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    assert captioner.caption_pixels(pixels, SearchOptions(n_best=3)) == [[Hypothesis("", -np.inf)]]


def test_device_and_dtype(captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner.save(tmp_path)
    auto = Captioner.load(tmp_path)
    assert auto.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    half = Captioner.load(tmp_path, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.caption([encoded(1)])[0].text
    assert half.encode(np.zeros((1, 64, 64, 3), np.uint8)).dtype == torch.bfloat16
    for device, dtype in (("cpu", "int8"), ("abacus", "auto"), ("cuda:99", "auto")):
        with pytest.raises(UsageError, match=r"int8|abacus|cuda:99"):
            Captioner.load(tmp_path, device=device, dtype=dtype)
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        features = {"avx512_bf16": supported}
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda answer=features: answer, raising=False)
        assert Captioner.load(tmp_path, device="cpu").dtype == expected


def test_bfloat16_hardly_changes_captions() -> None:
    """`benchmarks/dtypes.py` says how many; where the logits were bfloat16 too, they were one in ten."""
    size, found = Captioner.load(engine=None).preprocessing.size, []
    scenes = [np.asarray(draw(random_scene(30_000_000 + seed), size).convert("RGB")) for seed in range(96)]
    for dtype in ("float32", "bfloat16"):
        captioner = Captioner.load(device="cpu", dtype=dtype)
        found.append([best[0] for best in captioner.caption_pixels(np.stack(scenes), SearchOptions(beam=3))])
    same = [(one, other) for one, other in zip(*found, strict=True) if one.text == other.text]
    assert len(same) >= 94
    assert max(abs(one.score - other.score) for one, other in same) < 0.01


def test_parts_that_do_not_fit(captioner: Captioner) -> None:
    with pytest.raises(BundleError, match="the vocabulary has 5 words and the decoder 26"):
        Captioner(captioner.encoder, captioner.decoder, Vocabulary.build(["dog"], 1))
    with pytest.raises(BundleError, match="pooled features of 512 values, the decoder reads pooled ones of 4096"):
        Captioner(captioner.encoder, ShowTell(ShowTell.Config(vocab_size=26, feature_size=4096)), captioner.vocabulary)


def test_a_captioner_in_training_keeps_its_weights(captioner: Captioner) -> None:
    before = copy.deepcopy(captioner.decoder.state_dict())
    name = captioner.fingerprint
    with torch.no_grad():
        captioner.decoder.get_parameter("output.bias").add_(1)
    assert captioner.fingerprint != name
    captioner.decoder.load_state_dict(before)
    assert captioner.fingerprint == name


def test_the_embedded_captioner_starts_without_what_takes_seconds_to_import() -> None:
    script = (
        "import sys\n"
        "from captionkit import Captioner\n"
        "from tests.model.conftest import encoded\n"
        "assert Captioner.load().caption([encoded(0)])[0].text\n"
        "print({'torchvision', 'torch._dynamo', 'sympy', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"
