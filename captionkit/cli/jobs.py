"""Commands that run jobs: caption, train, evaluate, and the demonstration."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionkit.cli.exit_codes import BROKEN, OK, TIME_IS_UP, TOO_MANY_FAILED
from captionkit.cli.options import argument, parse
from captionkit.cli.pages import draw_scenes, show_gallery
from captionkit.cli.tables import show_plan
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.options import CaptionOptions, OutputOptions

if TYPE_CHECKING:
    from captionkit.evaluation.options import EvaluateOptions
    from captionkit.pipeline.job import CaptionJob
    from captionkit.training.options import TrainOptions


@dataclass(frozen=True)
class DemoOptions:
    """Draw scenes, caption them with the embedded captioner through the whole pipeline, make a page of them."""

    output: str = "demo"
    """Folder for pictures, table and page."""
    count: int = 60
    """Scenes to draw."""
    seed: int = 20_000_000
    """Seed of the first scene. The captioner was trained on seeds below ten million."""


def caption(args: Sequence[str]) -> int:
    """`captionkit caption`; the exit code."""
    return run_job(parse(CaptionOptions, "caption", args))


def run_job(options: CaptionOptions) -> int:
    """Run a caption job and say how it went; the exit code."""
    from captionkit.inputs.listing import Inputs
    from captionkit.model.bundle_files import check_bundles
    from captionkit.pipeline.finished import give_notice
    from captionkit.pipeline.preflight import check_options
    from captionkit.progress import log_line
    from captionkit.storage import Storage, retry_counts

    # What is wrong with the command is found at once: torch and Ray take seconds to load.
    check_options(options)
    retries = retry_counts()
    storage = Storage(options.storage).without_scheme_limit()
    check_bundles(options.captioner.model, storage)
    inputs = Inputs(options.inputs, storage, output=options.table.output)
    inputs.check()
    from captionkit.pipeline.job import CaptionJob

    job = CaptionJob(options, inputs)
    job.record.count_retries_since(retries)
    if options.dry_run:
        return _dry_run(job)
    try:
        record = job.run()
    finally:
        if options.table.when_finished:
            give_notice(options.table.when_finished, job.record.to_json(), job.record_uri)
    counts = record.counts
    speed = f" ({record.images_per_second:,.1f} images/s)" if record.images_per_second else ""
    log_line(f"captioned {counts['captioned']:,}, failed {counts['failed']:,}{speed}")
    if "existing" in counts:
        log_line(f"  {counts['existing']:,} of these with the caption that the image brought (--existing)")
    for kind, count in sorted(record.failures.items(), key=lambda item: -item[1]):
        log_line(f"  {count:,} × {kind}")
    if options.table.page:
        page, rate = options.table.page, record.images_per_second
        show_gallery(job.table.uri, page, 200, Storage(options.storage), job.before, images_per_second=rate)
    log_line(f"table:  {job.table.uri}")
    log_line(f"record: {job.record_uri}")
    if options.table.page:
        log_line(f"page:   {options.table.page}")
    if record.status == "time_is_up":
        log_line(
            f"the time of --until {options.table.until} has come: exit code {TIME_IS_UP}; the same command goes on"
        )
        return TIME_IS_UP
    if record.status == "too_many_failed":
        log_line(f"more than {options.table.max_failed:.1%} failed (--max-failed): exit code {TOO_MANY_FAILED}")
        return TOO_MANY_FAILED
    return OK


def _dry_run(job: CaptionJob) -> int:
    """The plan of a job whose options hold, and which is not run."""
    from captionkit.plan.options import PlanOptions
    from captionkit.progress import log_line

    options = job.options
    if job.table.files:
        rows = sum(file.rows for file in job.table.files)
        log_line(
            f"{job.table.uri} holds {counted(rows, 'row')}; a run passes over their images, and this plan does not"
        )
    return show_plan(PlanOptions(options.inputs, options.captioner, options.search, options.words, options.storage))


def train(args: Sequence[str]) -> int:
    """`captionkit train`; the exit code."""
    from captionkit.training.options import TrainOptions

    name = argument(args, "recipe")
    if name is None:
        options = parse(TrainOptions, "train", args)
        if options.data is not None:
            raise UsageError("--data is the folder of a recipe's data set: name the recipe too (--recipe flickr8k)")
        return _train(options)
    from captionkit.progress import log_line
    from captionkit.storage import Storage
    from captionkit.training.recipes import evaluations, read_recipe, summary, with_data

    recipe = read_recipe(name)
    options = parse(TrainOptions, "train", args, recipe.options())
    options, data = with_data(recipe, options, Storage(options.storage))
    judged = _judgements(evaluations(recipe, options, data), recipe.named)
    log_line(summary(recipe, options, data))
    code = _train(options)
    if code == OK:
        for judgement in judged:
            _judge_again(judgement)
    return code


def _train(options: TrainOptions) -> int:
    """Run a training and say how it went; the exit code."""
    from captionkit.pipeline.ray_address import check_ray
    from captionkit.progress import log_line
    from captionkit.storage import Storage
    from captionkit.training.preflight import check_inputs
    from captionkit.training.preflight import check_options as check_training

    check_training(options)
    check_ray(options.cluster.address)
    check_inputs(options, Storage(options.storage))
    from ray.train import TrainingFailedError

    from captionkit.training.job import TrainJob

    try:
        bundle = TrainJob(options).run()
    except TrainingFailedError as err:
        lines = [line for line in str(err).splitlines() if line.strip()]
        log_line(f"captionkit: {lines[-1].strip()}; the same command goes on from the last checkpoint")
        return BROKEN
    log_line(f"bundle: {bundle}")
    log_line(f"curve:  {Storage().join(options.result.output, 'curve.png')}")
    return OK


def _judgements(evaluations: Mapping[str, Mapping[str, Any]], named: str) -> list[EvaluateOptions]:
    """The evaluations of a recipe, checked before the training; none where their measures are not installed."""
    from captionkit.config import from_values
    from captionkit.evaluation.options import EvaluateOptions
    from captionkit.evaluation.preflight import check_searches
    from captionkit.progress import log_line

    judged = []
    for name, values in evaluations.items():
        options = from_values(EvaluateOptions, values, f"{named}, evaluate: {name}")
        check_searches(options)
        judged.append(options)
    if judged and importlib.util.find_spec("pycocoevalcap") is None:
        log_line("there will be no score card: its measures are not installed (pip install captionkit[evaluate])")
        return []
    return judged


def _judge_again(options: EvaluateOptions) -> None:
    """Evaluate, unless the same bundle was evaluated so before."""
    from captionkit.evaluation.job import calibrate_again, is_judged
    from captionkit.evaluation.job import evaluate as judge
    from captionkit.progress import log_line

    if is_judged(options):
        calibrate_again(options)
        log_line(f"score card: {options.result.output}, of this captioner, made before")
        return
    judged = judge(options)
    log_line(f"score card: {judged.markdown_uri}")
    log_line(f"page:       {judged.page_uri}")


def evaluate(args: Sequence[str]) -> int:
    """`captionkit evaluate`; the exit code."""
    from captionkit.evaluation.options import EvaluateOptions

    options = parse(EvaluateOptions, "evaluate", args)
    from captionkit.evaluation.preflight import check_evaluation
    from captionkit.progress import log_line
    from captionkit.storage import Storage

    check_evaluation(options, Storage(options.storage))
    from captionkit.evaluation.job import evaluate as judge

    judged = judge(options)
    log_line(f"score card: {judged.markdown_uri}")
    log_line(f"page:       {judged.page_uri}")
    return OK


def demo(args: Sequence[str]) -> int:
    """`captionkit demo`; the exit code."""
    options = parse(DemoOptions, "demo", args)
    from captionkit.storage import Storage

    images = f"{options.output}/scenes"
    draw_scenes(images, options.count, options.seed)
    # Two files that are no pictures, to see what becomes of such: a row with its reason, and nothing else.
    storage = Storage()
    storage.write(storage.normalize(f"{images}/empty.jpg"), b"")
    storage.write(storage.normalize(f"{images}/notes.jpg"), b"These are notes, whatever the name says.\n")
    return run_job(
        CaptionOptions(
            inputs=InputOptions(input=(images,)),
            table=OutputOptions(output=f"{options.output}/captions", page=f"{options.output}/captions.html"),
        )
    )
