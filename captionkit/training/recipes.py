"""Recipes: a training with its options, its data set and its evaluations, as a file that can be copied and edited.

A recipe is a config file of `captionkit train` with up to six names more: `about`, `measured`, `dataset`, `needs`,
`calibrate`, `evaluate`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from captionkit.config import from_values, read_values
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.storage import Storage, public_uri
from captionkit.training.datasets import DATA_SETS, DataSet, find_data_set
from captionkit.training.options import TrainOptions

SUFFIX: Final = ".yaml"
DEV_IMAGES: Final = "dev_images.txt"
"""List of the dev images of a training, in its output folder."""
_OWN: Final = ("about", "measured", "dataset", "needs", "calibrate", "evaluate")
_EVALUATION: Final = "evaluation"
_FOLDER: Final = Path(__file__).parents[1] / "assets" / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read."""

    named: str
    """What to call it in messages."""
    about: str
    """What it makes, in a line."""
    measured: str
    """How long it took, where and when; empty where nobody measured it."""
    dataset: str
    """A key of `DATA_SETS`; empty for a recipe without one, whose user names captions and photos."""
    needs: tuple[str, ...]
    """Options that the user adds, such as `init`."""
    train: Mapping[str, Any]
    """Names and values of options of `captionkit train`."""
    calibrate: Mapping[str, Any] | None
    """Names and values of options of `captionkit evaluate`, by which the captioner is given a calibration."""
    evaluate: Mapping[str, Mapping[str, Any]]
    """Names and values of options of `captionkit evaluate`, by the name of the evaluation's folder."""

    def options(self) -> TrainOptions:
        """The options, to be changed by the command line.

        Raises:
            UsageError: an unknown option or a wrong value.
        """
        return from_values(TrainOptions, {"corpus": [], **self.train}, self.named)


def recipe_names() -> list[str]:
    """The recipes within the package."""
    return sorted(file.stem for file in _FOLDER.glob(f"*{SUFFIX}"))


def recipe_text(name: str) -> str:
    """A recipe of the package as its file has it.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in recipe_names():
        raise UsageError(f"there is no recipe {name!r}; there are: {', '.join(recipe_names())}")
    return (_FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def read_recipe(name: str) -> Recipe:
    """A recipe by its name in the package, or by its address: anything with a slash or a dot.

    Raises:
        UsageError: it is missing, or is not as a recipe is.
    """
    if "/" in name or "." in name:
        values, named = read_values(name, "--recipe")
    else:
        import yaml  # late: every command's `--help` imports this module's options

        values, named = yaml.safe_load(recipe_text(name)), f"--recipe {name}"
    evaluate, needs, dataset = values.get("evaluate") or {}, values.get("needs") or [], values.get("dataset") or ""
    if not isinstance(evaluate, dict) or not all(isinstance(options, dict) for options in evaluate.values()):
        raise UsageError(f"{named}: evaluate: expected options by name, as in `plain: {{beams: [5]}}`")
    calibrate = values.get("calibrate")
    if not isinstance(calibrate, dict | None):
        raise UsageError(f"{named}: calibrate: expected options, as in `{{beams: [5]}}`")
    if not isinstance(needs, list):
        raise UsageError(f"{named}: needs: expected a list of options, as in `[init]`")
    if dataset and dataset not in DATA_SETS:
        raise UsageError(f"{named}: dataset {dataset!r} is unknown; known are: {', '.join(DATA_SETS)}")
    train = {option: value for option, value in values.items() if option not in _OWN}
    about, measured = (" ".join(str(values.get(name) or "").split()) for name in ("about", "measured"))
    return Recipe(named, about, measured, dataset, tuple(map(str, needs)), train, calibrate, evaluate)


def with_data(recipe: Recipe, options: TrainOptions, storage: Storage) -> tuple[TrainOptions, DataSet]:
    """The options with captions and photos of `--data`; without it, those that `--corpus` and `--images` name.

    Raises:
        UsageError: data is missing, or an option that the recipe needs.
        StorageError: storage that cannot be read or written.
    """
    for name in recipe.needs:
        if not any(getattr(group, name, None) for group in (options.network, options.corpus)):
            raise UsageError(f"{recipe.named} needs --{name.replace('_', '-')} too: {recipe.about}")
    corpus = options.corpus
    if options.data is None:
        if not corpus.corpus:
            raise UsageError(
                f"{recipe.named}: name "
                + (f"the folder of {recipe.dataset} with --data, or " if recipe.dataset else "")
                + "captions of your own with --corpus, and their pictures with --images"
            )
        return options, DataSet(corpus.corpus, corpus.images, has_test=False)
    if not recipe.dataset:
        raise UsageError(f"{recipe.named} is of no known data set: name captions with --corpus, pictures with --images")
    if corpus.corpus or corpus.images:
        raise UsageError("--data and --corpus or --images exclude each other: --data finds both")
    data = find_data_set(recipe.dataset, options.data, storage.normalize(options.result.output), storage)
    return replace(options, corpus=replace(corpus, corpus=data.corpus, images=data.images)), data


def evaluations(recipe: Recipe, options: TrainOptions, data: DataSet) -> dict[str, dict[str, Any]]:
    """Options of `captionkit evaluate` for each evaluation, by its name, as names and values, in order.

    The one that calibrates comes first, on the dev images. The others judge test images where the data set has a list
    of them; else the dev images, which have chosen the checkpoint.
    """
    storage = Storage()
    output = options.result.output
    dev = {"split": "val", "split_list": storage.join(output, DEV_IMAGES)}
    split = {"split": "test"} if data.has_test else dev
    wanted: dict[str, dict[str, Any]] = {}
    if recipe.calibrate is not None:
        wanted["calibration"] = dev | dict(recipe.calibrate) | {"calibrate": storage.join(output, "bundle")}
    wanted |= {name: split | dict(values) for name, values in recipe.evaluate.items()}
    return {
        name: {
            **values,
            "corpus": list(options.corpus.corpus),
            "images": list(options.corpus.images),
            "model": [storage.join(output, "bundle")],
            "output": storage.join(output, _EVALUATION, name),
        }
        for name, values in wanted.items()
    }


def summary(recipe: Recipe, options: TrainOptions, data: DataSet) -> str:
    """What a recipe will do, said before it starts."""
    steps, finetune, scst = options.steps.epochs, options.finetune.finetune_epochs, options.scst.scst_epochs
    network = options.network
    stages = ["features of all photos"]
    for stage, epochs in (("captions", steps), ("fine-tuning", finetune), ("self-critical training", scst)):
        stages += [f"{stage}, {epochs:g} epoch{'s' if epochs != 1 else ''}"] if epochs else []
    stages += ["neighbours"] if options.result.neighbours else []
    stages += ["calibration on the dev images"] if recipe.calibrate is not None else []
    split = "test" if data.has_test else "dev"
    stages += [f"{counted(len(recipe.evaluate), 'evaluation')} on the {split} images"] if recipe.evaluate else []
    made = f"from {public_uri(network.init)}" if network.init else f"{network.decoder} on {network.encoder}"
    return "\n".join(
        [
            f"{recipe.named}: {recipe.about}",
            str(data),
            f"stages ({made}): {' → '.join(stages)}",
            f"measured: {recipe.measured or 'no, so how long it takes is not known'}",
            f"output: {public_uri(options.result.output)}; the same command goes on where it was stopped",
        ]
    )
