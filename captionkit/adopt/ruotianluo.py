"""ruotianluo's captioners (github.com/ruotianluo/ImageCaptioning.pytorch and self-critical.pytorch, and their forks).

`model-best.pth` is a state dict, `infos_….pkl` has the options and the words, by numbers from "1"; 0 is start, end and
padding at once. The decoders are those of Rennie et al. 2017 (arXiv:1612.00563), with maxout in their LSTMs, and of
Anderson et al. 2018 (arXiv:1707.07998): families of captionkit's with options. What is a matter of layers alone is
counted into the weights: the ReLU after the word vectors, batch norms before and after the places' layer, biases of
queries. The biases of energies are left out, since softmax ignores them.

The encoder is Caffe's ResNet, `resnet101.pth` of ruotianluo/pytorch-resnet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captionkit.adopt.captioners import Adopted, change_preprocessing, load_decoder
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.parts import choose_words
from captionkit.adopt.pickles import Record
from captionkit.adopt.recurrent import BATCH_NORM_EPS
from captionkit.adopt.resnets import find_backbone
from captionkit.adopt.torch_files import renamed
from captionkit.adopt.words import Rows, set_markers, to_rows
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import Decoder, ShowTell, SoftAttention, TopDown
from captionkit.model.encoders import NO_NETWORK, Encoder, EncoderError, build_encoder, default_preprocessing

GRID = 14
"""Places on a side, to which the network's map is brought by adaptive pooling."""
MODELS = ("fc", "newfc", "show_tell", "att2in", "att2in2", "att2all2", "updown (topdown)")
"""His names of the captioners that are adopted."""
_EARLY = ("core.h2att=core.attention.h2att", "core.alpha_net=core.attention.alpha_net")
"""Names of att2in before its attention was a module of its own."""
_OUTPUTS = ("logit.weight", "logit.0.weight")
_Gates = Callable[[Tensor], Tensor]


def is_ruotianluo(given: Sequence[Given]) -> bool:
    """Whether one of his captioners is among these files."""
    return any(_stem(one.tensors) is not None for one in given) or (
        bool(_options(given)) and any(one.tensors for one in given)
    )


def adopt_ruotianluo(
    given: Sequence[Given],
    encoder_file: Given | None,
    encoder_name: str,
    changes: tuple[str, ...],
    markers: tuple[str, ...],
    preprocessing: Mapping[str, Any],
) -> Adopted:
    """Put one of his captioners together.

    Args:
        encoder_file: the weights that `--encoder-weights` names.
        encoder_name: `--encoder`; torchvision's names mean torchvision's networks.
        changes: see `renamed`.
        markers: see `set_markers`.
        preprocessing: fields of `Preprocessing` over the usual ones.

    Raises:
        AdoptError: a part is missing, is another network, or does not fit.
    """
    options = _options(given)
    file, tensors = _model(given, changes, options)
    layers = _Layers(tensors, file)
    model = layers.model()
    rows = len(layers.get("logit.weight"))
    name, words = choose_words({one.name: one.words for one in given if one.words}, rows, file)
    set_markers(words, markers)
    order = to_rows(words, rows, rows)
    if model in ("fc", "newfc", "show_tell"):
        decoder, state = _from_pooled(layers, model, order)
    elif model == "updown":
        decoder, state = _up_down(layers, order)
    else:
        decoder, state = _att2in(layers, model, order)
    layers.refuse_others(model)
    load_decoder(decoder, state, file)
    encoder, exact, approximated = _encoder(given, encoder_file, encoder_name, decoder, preprocessing, options)
    adopted = Adopted(Captioner(encoder, decoder, order.vocabulary), "ruotianluo", notes=words.notes)
    if scaled := _scaled(decoder, options):
        adopted.notes.append(f"it was trained with {scaled}: it captions places that are made so")
    limit = options.get("max_length") or options.get("seq_length")
    adopted.exact = [
        *exact,
        f"decoder of {file}: {model}" + (f"; it wrote at most {limit} words" if isinstance(limit, int) else ""),
        f"{len(words.words):,} words of {name}",
    ]
    adopted.approximated = approximated
    return adopted


class _Layers:
    """The tensors of a model by his names; what was taken is noted, so that nothing is left over unseen."""

    def __init__(self, tensors: Mapping[str, Tensor], file: str) -> None:
        self.tensors, self.file = tensors, file
        self.taken: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise AdoptError(f"{self.file} lacks {name}")
        self.taken.add(name)
        return self.tensors[name].float()

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get(f"{name}.weight"), self.get(f"{name}.bias")

    def model(self) -> str:
        """His name of it."""
        has = self.has
        if has("logit.0.weight"):
            raise AdoptError(f"{self.file} has an output of several layers (logit_layers), which is not adopted")
        if has("img_embed.weight"):
            name = "fc" if has("core.i2h.weight") else "show_tell" if has("core.weight_ih_l0") else ""
        elif has("_core.i2h.weight"):
            name = "newfc" if has("fc_embed.weight") else ""
        elif has("core.a2c.weight"):
            name = "att2in2" if has("embed.0.weight") else "att2in"
        elif has("core.a2h.weight"):
            name = "att2all2"
        else:
            name = "updown" if has("core.att_lstm.weight_ih") and has("core.lang_lstm.weight_ih") else ""
        if not name:
            raise AdoptError(
                f"{self.file} is none of the captioners of ruotianluo's that are adopted ({', '.join(MODELS)}); its "
                f"first tensors are {', '.join(list(self.tensors)[:6])}"
            )
        return name

    def words(self, order: Rows) -> Tensor:
        """The word vectors in captionkit's order; the ReLU after them counted in, where there is one."""
        if self.has("embed.0.weight"):
            return order.embed(torch.relu(self.get("embed.0.weight")))
        return order.embed(self.get("embed.weight"))

    def output(self, order: Rows) -> dict[str, Tensor]:
        weight, bias = order.out(*self.linear("logit"))
        return {"output.weight": weight, "output.bias": bias}

    def places(self) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """The layer that makes C values of each place's D, a batch norm before it counted in, and factor and shift (C)
        of the batch norm after its ReLU."""
        if not any(name.startswith("att_embed.") for name in self.tensors):
            return {}, None, None
        before, after = (self._norm(f"att_embed.{at}") for at in (0, 4))
        weight, bias = after_norm(*self.linear("att_embed.0" if before[0] is None else "att_embed.1"), *before)
        return {"places.weight": weight, "places.bias": bias}, *after

    def attention(self, factor: Tensor | None, shift: Tensor | None) -> dict[str, Tensor]:
        keys, bias = after_norm(*self.linear("ctx2att"), factor, shift)
        query, query_bias = self.linear("core.attention.h2att")
        energy, _ = self.linear("core.attention.alpha_net")
        return {
            "attention.keys.weight": keys,
            "attention.keys.bias": bias + query_bias,
            "attention.query.weight": query,
            "attention.energy.weight": energy,
        }

    def _norm(self, name: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """A batch norm as x * factor + shift, in double precision, where it is there."""
        if not self.has(f"{name}.running_mean"):
            return None, None
        mean, variance = self.get(f"{name}.running_mean").double(), self.get(f"{name}.running_var").double()
        weight, bias = self.linear(name)
        factor = torch.rsqrt(variance + BATCH_NORM_EPS) * weight
        return factor, bias - mean * factor

    def refuse_others(self, model: str) -> None:
        """Raise AdoptError for tensors that such a model does not have."""
        unused = "fc_embed." if model in ("att2in2", "att2all2") else "\0"  # made, and never read, in early versions
        others = [
            name
            for name in self.tensors
            if name not in self.taken and not name.endswith("num_batches_tracked") and not name.startswith(unused)
        ]
        if others:
            raise AdoptError(
                f"{self.file} has tensors that ruotianluo's {model} does not have: {', '.join(others[:6])}; it "
                "computes something else"
            )


def after_norm(weight: Tensor, bias: Tensor, factor: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """A linear layer that reads x * factor + shift as one that reads x."""
    if factor is None or shift is None:
        return weight, bias
    return (weight.double() * factor).float(), (bias.double() + weight.double() @ shift).float()


def _maxout_gates(hidden: int) -> _Gates:
    """His order of gates, input, forget, output and two candidates, as captionkit's."""

    def reorder(tensor: Tensor) -> Tensor:
        into, forget, out, *candidates = torch.split(tensor, hidden)
        return torch.cat([into, forget, *candidates, out])

    return reorder


def _from_pooled(layers: _Layers, model: str, order: Rows) -> tuple[Decoder, dict[str, Tensor]]:
    image, image_bias = layers.linear("fc_embed" if model == "newfc" else "img_embed")
    state = {"image.weight": image, "image.bias": image_bias, "words.weight": layers.words(order)}
    state |= layers.output(order)
    count = 1
    if model == "show_tell":
        hidden = layers.get("core.weight_hh_l0").shape[1]
        while layers.has(f"core.weight_ih_l{count}"):
            count += 1
        for number in range(count):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                name = f"core.{part}_l{number}"
                known = part.startswith("weight") or layers.has(name)  # his have no biases
                state[f"lstm.{part}_l{number}"] = layers.get(name) if known else torch.zeros(4 * hidden)
    else:
        core = "_core" if model == "newfc" else "core"
        (from_input, bias), (from_state, state_bias) = layers.linear(f"{core}.i2h"), layers.linear(f"{core}.h2h")
        hidden = from_state.shape[1]
        gates = _maxout_gates(hidden)
        state["lstm.from_input.weight"], state["lstm.from_input.bias"] = gates(from_input), gates(bias + state_bias)
        state["lstm.from_state.weight"] = gates(from_state)
    config = ShowTell.Config(
        vocab_size=len(order.vocabulary),
        feature_size=image.shape[1],
        embed_size=len(image),
        hidden_size=hidden,
        layers=count,
        maxout=model != "show_tell",
    )
    return ShowTell(config), state


def _att2in(layers: _Layers, model: str, order: Rows) -> tuple[Decoder, dict[str, Tensor]]:
    """Attention before the LSTM; its result goes to the candidates alone, or to all gates (att2all2)."""
    places, factor, shift = layers.places()
    (from_word, bias), (from_state, state_bias) = layers.linear("core.i2h"), layers.linear("core.h2h")
    hidden = from_state.shape[1]
    gates, everywhere = _maxout_gates(hidden), model == "att2all2"
    context, context_bias = after_norm(*layers.linear("core.a2h" if everywhere else "core.a2c"), factor, shift)
    if not everywhere:
        gateless = context.new_zeros(3 * hidden, context.shape[1])
        context, context_bias = torch.cat([gateless, context]), torch.cat([gateless[:, 0], context_bias])
    state = {
        **places,
        **layers.attention(factor, shift),
        **layers.output(order),
        "words.weight": layers.words(order),
        "from_word.weight": gates(from_word),
        "from_word.bias": gates(bias + state_bias + context_bias),
        "from_state.weight": gates(torch.cat([from_state, context], dim=1)),
    }
    config = SoftAttention.Config(
        vocab_size=len(order.vocabulary),
        feature_size=places["places.weight"].shape[1] if places else context.shape[1],
        embed_size=from_word.shape[1],
        hidden_size=hidden,
        attention_size=len(state["attention.query.weight"]),
        place_size=context.shape[1] if places else None,
        deep_output=False,
        gated=False,
        zero_start=True,
        maxout=True,
    )
    return SoftAttention(config), state


def _up_down(layers: _Layers, order: Rows) -> tuple[Decoder, dict[str, Tensor]]:
    places, factor, shift = layers.places()
    attention, language = (
        [layers.get(f"core.{cell}.{part}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for cell in ("att_lstm", "lang_lstm")
    )
    hidden = attention[1].shape[1]
    image, image_bias = layers.linear("fc_embed.0")
    # Read by the attention LSTM: language state, image, word.
    words = attention[0].shape[1] - hidden - len(image)
    from_language, from_image, from_word = torch.split(attention[0], [hidden, len(image), words], dim=1)
    size = language[0].shape[1] - hidden
    from_context, language_bias = after_norm(language[0][:, :size], language[2] + language[3], factor, shift)
    state = {
        **places,
        **layers.attention(factor, shift),
        **layers.output(order),
        "words.weight": layers.words(order),
        "image.weight": image,
        "image.bias": image_bias,
        "from_image.weight": from_image,
        "from_image.bias": attention[2] + attention[3],
        "from_word.weight": from_word,
        "from_states.weight": torch.cat([attention[1], from_language], dim=1),
        "language.weight": torch.cat([from_context, language[0][:, size:], language[1]], dim=1),
        "language.bias": language_bias,
    }
    config = TopDown.Config(
        vocab_size=len(order.vocabulary),
        feature_size=image.shape[1],
        embed_size=from_word.shape[1],
        hidden_size=hidden,
        attention_size=len(state["attention.query.weight"]),
        place_size=size,
        image_size=len(image),
        deep_output=False,
    )
    return TopDown(config), state


def _stem(tensors: Mapping[str, Tensor]) -> str | None:
    """What stands before his names, "" or "module." and the like; None where these are not of his."""
    stems = [name.removesuffix(out) for name in tensors for out in _OUTPUTS if name == out or name.endswith(f".{out}")]
    fitting = (stem for stem in stems if any(name.startswith((f"{stem}core.", f"{stem}_core.")) for name in tensors))
    return min(fitting, key=len, default=None)


def _options(given: Sequence[Given]) -> Mapping[str, Any]:
    """The options in an infos file; none without one."""
    for one in given:
        opt = one.value.get("opt") if isinstance(one.value, dict) and "vocab" in one.value else None
        if isinstance(opt, Record) and "caption_model" in opt.attributes:
            return opt.attributes
    return {}


def _model(
    given: Sequence[Given], changes: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[str, dict[str, Tensor]]:
    """The file with the decoder, and its tensors under his names. Of several in a folder the best one's."""
    models: dict[str, dict[str, Tensor]] = {}
    for one in given:
        tensors = renamed(one.tensors, changes)
        if (stem := _stem(tensors)) is not None:
            inside = {name: tensor for name, tensor in tensors.items() if name.startswith(stem)}
            models[one.name] = renamed({name.removeprefix(stem): tensor for name, tensor in inside.items()}, _EARLY)
    best = {name: tensors for name, tensors in models.items() if "best" in name.rpartition("/")[2]}
    models = best if len(models) > 1 and best else models
    if len(models) > 1:
        raise AdoptError(f"{', '.join(models)} each hold a decoder: give one of them")
    if not models:
        raise AdoptError(
            f"no file holds a decoder of ruotianluo's that is adopted ({', '.join(MODELS)}); in his project it is "
            "called model-best.pth" + (f"; the infos are of {options['caption_model']!r}" if options else "")
        )
    return next(iter(models.items()))


def _scaled(decoder: Decoder, options: Mapping[str, Any]) -> str:
    """His options that change the places of an encoder's grid, if any were set."""
    keys = ("norm_att_feat", "use_box") if decoder.feature_kind == "grid" else ()
    return " and ".join(key for key in keys if options.get(key))


def _encoder(
    given: Sequence[Given],
    file: Given | None,
    name: str,
    decoder: Decoder,
    changes: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[Encoder, list[str], list[str]]:
    """The encoder, and what of it is exact and what approximated."""
    exact, approximated = list[str](), list[str]()
    if name == NO_NETWORK:
        return build_encoder(name, decoder.feature_kind, features=decoder.feature_size), exact, approximated
    if scaled := _scaled(decoder, options):
        raise AdoptError(
            f"it was trained with {scaled}: its places are scaled to length 1, or have their boxes beside "
            "them, which no encoder of captionkit's gives; --encoder none does without one, for such features"
        )
    weights: str | Mapping[str, Tensor] = "pretrained"
    candidates = [file] if file is not None else [one for one in given if one.tensors]
    backbones = [(one, found) for one in candidates if (found := find_backbone(one.tensors)) is not None]
    if len(backbones) > 1:
        raise AdoptError(f"{', '.join(one.name for one, _ in backbones)} each hold an encoder: give one of them")
    if backbones:
        [(file, backbone)] = backbones
        weights, name = backbone.tensors, name or f"caffe_{backbone.name}"
        exact = [f"{name} with the weights of {file.name}"]
    elif file is not None:
        raise AdoptError(f"--encoder-weights: {file.name} holds no ResNet")
    elif not name:
        raise AdoptError(
            "the encoder is missing: it is resnet101.pth (or resnet50, resnet152) of ruotianluo/pytorch-resnet, which "
            "his prepro_feats.py reads; give it too. --encoder resnet101 takes torchvision's instead, which was "
            "trained apart: its values mean other things, and the captions will hardly fit; --encoder none does without"
        )
    else:
        approximated = [
            f"encoder: torchvision's {name} stands in for his; it was trained apart, its values mean other things, and "
            "the captions will hardly fit the images"
        ]
    try:
        usual = default_preprocessing("caffe_resnet101")
        # 14 × 14 places of a network that goes in steps of 32 pixels.
        prepared = change_preprocessing(usual, changes)
        kind = decoder.feature_kind
        encoder = build_encoder(name, kind, weights, prepared, grid=GRID if kind == "grid" else None)
    except EncoderError as err:
        raise AdoptError(f"the encoder: {err}") from err
    if encoder.feature_size != decoder.feature_size:
        raise AdoptError(
            f"the encoder {name} gives {encoder.feature_size} values a place, and the decoder reads "
            f"{decoder.feature_size}"
        )
    approximated.append(
        f"images: his had their own sizes, and their maps were averaged to {GRID} × {GRID}; here each is squashed to "
        f"{prepared.size} × {prepared.size}, since images of one size make batches"
    )
    source = options.get("input_att_dir" if kind == "grid" else "input_fc_dir")
    if isinstance(source, str) and re.search(r"bu\d*(_|\.|$)", source):
        approximated.append(f"features: it was trained on {source}, which seem to be regions of an object detector")
    return encoder, exact, approximated
