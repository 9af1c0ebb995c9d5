"""The training job from beginning to end: corpus, networks, features, stages, bundle."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from dataclasses import dataclass
from typing import Any

import ray

import captionkit
from captionkit.config import to_config
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.model.captioner import Captioner
from captionkit.model.consensus import Consensus
from captionkit.pipeline.cluster import Connection, connect, node_cpus, plan_pool
from captionkit.pipeline.options import ClusterOptions
from captionkit.pipeline.ray_address import check_ray
from captionkit.pipeline.run_record import now, versions
from captionkit.pipeline.signals import stop_behind, stop_on_signals
from captionkit.progress import log_line
from captionkit.storage import Storage, StorageError, public_uri, split_member
from captionkit.table.lease import Lease
from captionkit.training.batches import Examples
from captionkit.training.corpus import Captions, TrainingCorpus, make_examples, read_training_corpus
from captionkit.training.curves import METRICS, Points, write_curves
from captionkit.training.features import EncoderSpec, FeatureSet, make_features, pooled_features
from captionkit.training.model_card import model_card
from captionkit.training.networks import Networks, make_networks
from captionkit.training.options import TrainOptions
from captionkit.training.preflight import check_options, check_resumable, fixed_options
from captionkit.training.recipes import DEV_IMAGES
from captionkit.training.stages import DecoderSpec, Stage, WorkerTask, make_stages
from captionkit.training.teacher import TeacherCaptions, read_teacher_captions
from captionkit.training.trainer import train_stage
from captionkit.training.validator import references
from captionkit.vocabulary import PAD

RECORD = "training.json"
FAILURES_SHOWN = 5
"""Unreadable images that are named; `training.json` has the count."""


class TrainJob:
    """Train a captioner as the options say. `run` starts the training, or resumes a stopped one.

    Raises (from the constructor):
        UsageError: an option is out of range, or the output folder holds another training.
        StorageError: the output folder cannot be read.
    """

    def __init__(self, options: TrainOptions) -> None:
        check_options(options)
        check_ray(options.cluster.address)
        self.options = options
        self.storage = Storage(options.storage)
        self.output = self.storage.normalize(options.result.output)
        fixed = fixed_options(options)
        check_resumable(_read_record(self.output, self.storage), fixed, self.output)
        self.record: dict[str, Any] = {
            "status": "running",
            "started_at": now(),
            "asked": fixed,
            "options": to_config(options),
            "versions": versions(),
        }

    def run(self) -> str:
        """Read the corpus, encode the images, train all stages, save. Returns the bundle's address.

        SIGTERM and Ctrl-C end it, after it has said what is kept.

        Raises:
            UsageError, StorageError, CorpusError: wrong options or corpus, found before Ray starts.
            ray.train.TrainingFailedError: workers failed more often than `max_failures`.
            JobStopped: it was asked to stop.
        """
        options, storage, output = self.options, self.storage, self.output
        corpus = read_training_corpus(options.corpus, storage)
        log_line(corpus.report)
        storage.write(storage.join(output, "corpus.txt"), (corpus.report + "\n").encode())
        dev = "".join(f"{split_member(image)[1] or image}".rpartition("/")[2] + "\n" for image, _ in corpus.dev)
        storage.write(storage.join(output, DEV_IMAGES), dev.encode("utf-8", "surrogatepass"))
        teacher = _teacher_captions(options, corpus, storage)
        networks = make_networks(options, corpus, storage)
        log_line(_summary(options, corpus, networks))
        _write_record(self.record, output, storage)
        with Lease(output, storage, f"training-{secrets.token_hex(3)}"):
            try:
                with stop_on_signals():
                    connection = connect(ClusterOptions(address=options.cluster.address), dashboard=True)
                    try:
                        # ray.init() replaced our SIGTERM handler; install it again.
                        with stop_on_signals():
                            training = _Training(
                                options, storage, output, corpus, teacher, networks, connection, self.record
                            )
                            _train(training)
                    finally:
                        if connection != "found":
                            ray.shutdown()
            except BaseException as err:
                if (stopped := stop_behind(err)) is None:
                    raise
                self.record.update(status="stopped", ended_at=now())
                _write_record(self.record, output, storage)
                log_line(f"kept: {_kept(output, storage)}")
                raise stopped from None
        self.record.update(status="succeeded", ended_at=now())
        _write_record(self.record, output, storage)
        return storage.join(output, "bundle")


@dataclass(frozen=True)
class _Training:
    """What all stages of a training have in common."""

    options: TrainOptions
    storage: Storage
    output: str
    corpus: TrainingCorpus
    teacher: TeacherCaptions | None
    networks: Networks
    connection: Connection
    record: dict[str, Any]
    """The content of training.json, filled in as the training goes on."""

    @property
    def train_captions(self) -> Captions:
        """The captions that cross-entropy is computed on: of the corpus the teacher's, if there is one."""
        return self.teacher.captions + self.corpus.rehearsal if self.teacher else self.corpus.learnt


def _teacher_captions(options: TrainOptions, corpus: TrainingCorpus, storage: Storage) -> TeacherCaptions | None:
    if not options.corpus.teacher:
        return None
    teacher = read_teacher_captions(corpus.train, options.corpus.teacher, options.corpus.teacher_captions, storage)
    log_line(f"teacher: {teacher.report}")
    return teacher


def _summary(options: TrainOptions, corpus: TrainingCorpus, networks: Networks) -> str:
    threshold = "" if options.network.init else f" that occur at least {counted(options.corpus.min_count, 'time')}"
    others = f" and {len(corpus.rehearsal):,} of --rehearsal" if corpus.rehearsal else ""
    return (
        f"{counted(len(corpus.train), 'training image')}{others}, {counted(len(corpus.dev), 'dev image')}; "
        f"a vocabulary of {counted(len(networks.vocabulary), 'word')}{threshold}"
    )


def _train(training: _Training) -> None:
    """Train all stages, and save after each."""
    options, networks = training.options, training.networks
    curves: dict[str, Points] = {}
    training.record["stages"] = {}
    for stage in make_stages(options):
        features = _features(training, pixels=stage.name == "finetune")
        result = train_stage(
            _worker_task(training, stage, features),
            networks,
            training.output,
            training.storage,
            connection=training.connection,
            previous=curves,
        )
        curves[stage.name] = result.points
        training.record["stages"][stage.name] = {
            "cider": result.cider,
            "best_step": result.best_step,
            "steps": result.steps,
            "epochs": result.points[-1]["epoch"],
        }
        log_line(f"{stage.name}: best dev CIDEr-D {result.cider:.1f} at step {result.best_step:,}")
        _save(training, curves)
    if options.result.neighbours:
        _save(training, curves, _make_consensus(training))


def _worker_task(training: _Training, stage: Stage, features: FeatureSet) -> WorkerTask:
    # The reward of SCST is CIDEr-D against the reference captions, with a teacher too.
    captions = training.corpus.learnt if stage.name == "scst" else training.train_captions
    train = _examples(training, captions, features)
    return WorkerTask(
        options=training.options,
        stage=stage,
        train=train,
        dev=_examples(training, training.corpus.dev, features),
        vocabulary=training.networks.vocabulary,
        decoder=DecoderSpec.of(training.networks.decoder),
        encoder=EncoderSpec.of(training.networks.encoder) if stage.name == "finetune" else None,
        weights=training.networks.decoder.state_dict(),
        files=features.files,
        rows=features.rows,
        shape=features.shape,
        dtype=features.dtype,
        cache=f"{features.key}-{_digest([training.output, len(train.images)])}",
        threads=_threads(training.options),
    )


def _make_consensus(training: _Training) -> Consensus:
    """Features and reference captions of the training images, and of no others."""
    features = _features(training, pixels=False)
    train = _examples(training, training.corpus.learnt, features)
    pooled = pooled_features(features, train.images, training.storage)
    return Consensus.of(pooled, references(train), PAD)


def _threads(options: TrainOptions) -> int:
    """CPU threads of each worker: every core, since reading the features is over when training starts."""
    cluster = options.cluster
    return cluster.threads or max(1, math.floor(ray.cluster_resources().get("CPU", 0.0) / cluster.workers))


def _features(training: _Training, pixels: bool) -> FeatureSet:
    """The features, or the pixels, of all images of the corpus. Names the first images that cannot be read."""
    options, storage = training.options.cluster, training.storage
    gpus = ray.cluster_resources().get("GPU", 0.0)
    pool = plan_pool(ClusterOptions(), node_cpus(), gpus, grows=training.connection != "started")
    features = make_features(
        [image for image, _ in (*training.corpus.learnt, *training.corpus.dev)],
        EncoderSpec.of(training.networks.encoder),
        options.cache or storage.join(training.output, "features"),
        storage,
        pool,
        pixels=pixels,
        progress_seconds=options.progress_seconds,
    )
    for uri, reason in list(features.failed.items())[:FAILURES_SHOWN]:
        log_line(f"left out: {uri}: {reason}")
    training.record["failed_images"] = len(features.failed)
    return features


def _examples(training: _Training, captions: Captions, features: FeatureSet) -> Examples:
    """Token ids of the captions whose image could be read.

    Raises:
        UsageError: there is none.
    """
    readable = [(image, texts) for image, texts in captions if public_uri(image) not in features.failed]
    examples = make_examples(readable, training.networks.vocabulary, training.options.corpus.max_words)
    if not len(examples):
        raise UsageError("no image of the corpus could be read; corpus.txt and the lines above give the reasons")
    return examples


def _save(training: _Training, curves: dict[str, Points], consensus: Consensus | None = None) -> None:
    """Write bundle, model card, curves and record, as they are after a stage."""
    storage, record, networks = training.storage, training.record, training.networks
    provenance = {"options": record["asked"], "stages": record["stages"], "versions": versions()}
    captioner = Captioner(
        networks.encoder, networks.decoder, networks.vocabulary, provenance=provenance, consensus=consensus
    )
    bundle = storage.join(training.output, "bundle")
    record["fingerprint"] = captioner.save(bundle, storage=storage)
    storage.write(storage.join(bundle, "README.md"), model_card(_card_facts(training, consensus)).encode())
    write_curves(curves, training.output, storage)
    _write_record(record, training.output, storage)


def _card_facts(training: _Training, consensus: Consensus | None) -> dict[str, Any]:
    encoder, decoder, corpus = training.networks.encoder, training.networks.decoder, training.options.corpus
    train = training.corpus.learnt
    return {
        "version": captionkit.__version__,
        "decoder": decoder.name,
        "encoder": encoder.config["name"],
        "feature_shape": encoder.config["output"],
        "size": encoder.preprocessing.size,
        "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
        "words": len(training.networks.vocabulary),
        "train_images": len(train),
        "train_captions": sum(len(texts) for _, texts in train),
        "teacher": training.teacher.report if training.teacher else "",
        "corpus": ", ".join(uri.rpartition("/")[2] for uri in (*corpus.corpus, *corpus.rehearsal)),
        "stages": [(name, stage["cider"], stage["epochs"]) for name, stage in training.record["stages"].items()],
        "beam": training.options.validate.beam,
        "options": training.record["asked"],
        "neighbours": consensus.max_neighbours if consensus else 0,
    }


def _kept(output: str, storage: Storage) -> str:
    """What a stopped training goes on from."""
    metrics = storage.join(output, METRICS)
    lines = storage.read(metrics).decode().splitlines() if storage.exists(metrics) else []
    points = [point for point in map(json.loads, lines) if "cider" in point]
    if not points:
        return "features that were computed; no checkpoint yet"
    last = points[-1]
    return f"the checkpoint of step {last['step']:,} ({last['stage']}, epoch {last['epoch']:.3g})"


def _read_record(output: str, storage: Storage) -> dict[str, Any] | None:
    """The content of the output folder's training.json; None if it has none."""
    try:
        record: dict[str, Any] = json.loads(storage.read(storage.join(output, RECORD)))
    except StorageError as err:
        if err.kind == "not_found":
            return None
        raise
    return record


def _write_record(record: dict[str, Any], output: str, storage: Storage) -> None:
    storage.write(storage.join(output, RECORD), json.dumps(record, indent=1).encode())


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=6).hexdigest()
