"""The training job from beginning to end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import torch
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import captionkit
from captionkit.config import to_config
from captionkit.corpus.glove import read_glove
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.model.bundle import read_weights
from captionkit.model.captioner import Captioner
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import DECODERS, Decoder, build_decoder
from captionkit.model.encoders import Encoder, EncoderError, build_encoder, default_preprocessing
from captionkit.pipeline.cluster import connect, node_cpus, plan_pool, require_gpus
from captionkit.pipeline.options import ClusterOptions
from captionkit.pipeline.ray_address import check_ray
from captionkit.pipeline.run_record import now, versions
from captionkit.progress import say
from captionkit.storage import Storage, StorageError, public_uri
from captionkit.table.lease import Lease
from captionkit.training.checkpoints import HISTORY, History, load_average
from captionkit.training.checks import NOT_DRAWN, check, check_same, lasting
from captionkit.training.corpus import Captions, TrainingCorpus, examples, read_training_corpus
from captionkit.training.examples import Examples
from captionkit.training.features import EncoderSpec, FeatureSet, make_features, pooled_features
from captionkit.training.objectives import Objective
from captionkit.training.options import TrainOptions
from captionkit.training.outputs import Points, Watch, model_card, write_curves
from captionkit.training.stages import DecoderSpec, Stage, Work, stages
from captionkit.training.teacher import Taught, read_taught
from captionkit.training.validate import references
from captionkit.training.worker import train_worker
from captionkit.vocabulary import PAD, Vocabulary

RECORD = "training.json"
WHOLE = ("size", "layers", "length", "positions")
"""Endings of the names of decoders' arguments that are whole numbers; the command line has one type for all."""


class TrainJob:
    """Train what the options say. `run` does it, or goes on where it was stopped.

    Raises (from the constructor):
        UsageError: an option is out of range, or the output folder holds another training.
    """

    def __init__(self, options: TrainOptions) -> None:
        check(options)
        check_ray(options.cluster.address)
        self.options = options
        self.storage = Storage(options.storage)
        self.output = self.storage.normalize(options.result.output)
        self.consensus: Consensus | None = None
        self.asked = lasting(options)
        check_same(self._read_record(), self.asked, self.output)
        self.record: dict[str, Any] = {
            "status": "running",
            "started_at": now(),
            "asked": self.asked,
            "options": to_config(options),
            "versions": versions(),
        }

    def run(self) -> str:
        """Read, encode, train, save. Returns the bundle's address.

        Raises:
            UsageError, StorageError, CorpusError: before Ray starts, what is wrong with options or corpus.
            ray.train.TrainingFailedError: workers failed more often than `max_failures`.
        """
        options = self.options
        corpus = read_training_corpus(options.corpus, self.storage)
        say(corpus.report)
        self.storage.write(self.storage.join(self.output, "corpus.txt"), (corpus.report + "\n").encode())
        self.lessons = self._lessons(corpus)
        self.encoder, self.vocabulary, self.decoder = self._networks(corpus)
        if layers := options.finetune.finetune_layers:
            try:
                self.encoder.train_only(layers)
            except EncoderError as err:
                raise UsageError(f"--finetune-layers: {err}") from err
        say(
            f"{counted(len(corpus.train), 'image')} to train on, {len(corpus.dev):,} to judge by; "
            f"{counted(len(self.vocabulary), 'word')}"
            + ("" if options.network.init else f" come {options.corpus.min_count} times or more")
        )
        self._write_record()
        with Lease(self.output, self.storage, f"training-{secrets.token_hex(3)}"):
            self._connection = connect(ClusterOptions(address=options.cluster.address), dashboard=True)
            try:
                self._train(corpus)
            finally:
                if self._connection != "found":
                    ray.shutdown()
        self.record.update(status="succeeded", ended_at=now())
        self._write_record()
        return self.storage.join(self.output, "bundle")

    def _lessons(self, corpus: TrainingCorpus) -> Taught:
        """What the decoder learns to say of the training images; rewards are by what people said all the same."""
        options = self.options.corpus
        if not options.teacher:
            return Taught(corpus.train)
        taught = read_taught(corpus.train, options.teacher, options.teacher_captions, self.storage)
        say(f"teacher: {taught.report}")
        return taught

    def _networks(self, corpus: TrainingCorpus) -> tuple[Encoder, Vocabulary, Decoder]:
        if (init := self.options.network.init) is None:
            encoder = self._encoder()
            return encoder, *self._decoder(corpus, encoder.feature_size)
        start = Captioner.load(init, device="cpu", dtype="float32", engine=None, storage=self.storage)
        if start.decoder.predicts_padding and self.options.scst.scst_epochs:
            raise UsageError(NOT_DRAWN.format(start.decoder.name))
        return start.encoder, start.vocabulary, start.decoder

    def _encoder(self) -> Encoder:
        network = self.options.network
        torch.manual_seed(self.options.steps.seed)
        weights: Any = network.encoder_weights
        if weights not in ("pretrained", "none"):
            weights = read_weights(self.storage.normalize(weights), self.storage)
        output = DECODERS[network.decoder].feature_kind
        try:
            preprocessing = default_preprocessing(network.encoder, network.image_size)
            if network.whole_image:
                preprocessing = replace(preprocessing, mode="squash", resize=preprocessing.size)
            return build_encoder(network.encoder, output, weights, preprocessing, grid=network.grid)
        except EncoderError as err:
            raise UsageError(f"--encoder {network.encoder}: {err}") from err

    def _decoder(self, corpus: TrainingCorpus, feature_size: int) -> tuple[Vocabulary, Decoder]:
        network = self.options.network
        vocabulary = corpus.vocabulary(self.options.corpus.min_count)
        vectors = None
        config: dict[str, Any] = {
            name: int(value) if float(value).is_integer() and name.endswith(WHOLE) else value
            for name, value in network.decoder_options.items()
        }
        if self.options.corpus.glove is not None:
            glove = read_glove(self.options.corpus.glove, vocabulary.words, counts=corpus.counts, storage=self.storage)
            say(str(glove))
            vectors = torch.from_numpy(glove.matrix)
            config["embed_size"] = vectors.shape[1]
        torch.manual_seed(self.options.steps.seed)
        try:
            decoder = build_decoder(
                network.decoder,
                {"vocab_size": len(vocabulary), "feature_size": feature_size, **config},
            )
            if vectors is not None:
                decoder.set_embeddings(vectors, frozen=network.frozen_words)
        except ValueError as err:
            raise UsageError(f"--decoder {network.decoder}: {err}") from err
        return vocabulary, decoder

    def _train(self, corpus: TrainingCorpus) -> None:
        options, done = self.options, dict[str, Points]()
        self.record["stages"] = {}
        for stage in stages(options):
            spec = EncoderSpec.of(self.encoder)
            features = self._features(corpus, spec, pixels=stage.name == "finetune")
            said = corpus.train if stage.name == "scst" else self.lessons.captions
            train, dev = (self._examples(part, features) for part in (said, corpus.dev))
            work = Work(
                options=options,
                stage=stage,
                train=train,
                dev=dev,
                vocabulary=self.vocabulary,
                decoder=DecoderSpec.of(self.decoder),
                encoder=spec if stage.name == "finetune" else None,
                weights=self.decoder.state_dict(),
                rows=features.rows,
                shape=features.shape,
                dtype=features.dtype,
                cache=f"{features.key}-{_digest([self.output, len(train.images)])}",
                threads=self._threads(),
            )
            done[stage.name] = self._stage(stage, work, features, done)
            self._save(corpus, done)
        if options.result.neighbours:
            self.consensus = self._consensus(corpus)
            self._save(corpus, done)

    def _consensus(self, corpus: TrainingCorpus) -> Consensus:
        """Features and captions of the training images, and of no others."""
        features = self._features(corpus, EncoderSpec.of(self.encoder), pixels=False)
        train = self._examples(corpus.train, features)
        pooled = pooled_features(features, train.images, self.options.storage)
        return Consensus.of(pooled, references(train), PAD)

    def _threads(self) -> int:
        """Of each worker's network: every core, once the features are read."""
        cluster = self.options.cluster
        return cluster.threads or max(1, math.floor(ray.cluster_resources().get("CPU", 0.0) / cluster.workers))

    def _features(self, corpus: TrainingCorpus, spec: EncoderSpec, pixels: bool) -> FeatureSet:
        options = self.options.cluster
        gpus = ray.cluster_resources().get("GPU", 0.0)
        pool = plan_pool(ClusterOptions(), node_cpus(), gpus, grows=self._connection != "started")
        features = make_features(
            [image for image, _ in (*corpus.train, *corpus.dev)],
            spec,
            options.cache or self.storage.join(self.output, "features"),
            self.storage,
            pool,
            pixels=pixels,
            progress_seconds=options.progress_seconds,
        )
        for uri, why in list(features.failed.items())[:5]:
            say(f"left out: {uri}: {why}")
        self.record["failed_images"] = len(features.failed)
        return features

    def _examples(self, captions: Captions, features: FeatureSet) -> Examples:
        fine = [(image, texts) for image, texts in captions if public_uri(image) not in features.failed]
        found = examples(fine, self.vocabulary, self.options.corpus.max_words)
        if not len(found):
            raise UsageError("not one image of the corpus could be read; corpus.txt and the lines above say why")
        return found

    def _stage(self, stage: Stage, work: Work, features: FeatureSet, before: dict[str, Points]) -> Points:
        """Train one stage and take its best weights over; its learning curve."""
        options = self.options
        cpus, gpus = (ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU"))
        workers = options.cluster.workers
        per_worker = options.cluster.gpus_per_worker
        per_worker = float(gpus > 0) if per_worker is None else per_worker
        require_gpus(per_worker, f"--gpus-per-worker {per_worker:g}", self._connection, workers)
        # What is reserved leaves room for the tasks that read the features.
        resources = {"CPU": min(1.0, cpus / (workers + 1)), **({"GPU": per_worker} if per_worker else {})}
        path, filesystem = self._checkpoints()
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        result = TorchTrainer(
            train_worker,
            train_loop_config={"work": ray.put(work)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(per_worker), resources_per_worker=resources),
            run_config=RunConfig(
                name=stage.name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=options.cluster.max_failures),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=options.validate.keep, checkpoint_score_attribute="cider"
                ),
                callbacks=[Watch(self.output, options.storage, stage.name, before, options.result.track)],
            ),
            datasets={"features": features.dataset(options.storage)},
            dataset_config=DataConfig(datasets_to_split=[]),
        ).fit()
        best, metrics = max(result.best_checkpoints, key=lambda pair: pair[1]["cider"])
        network = Objective(self.decoder, None if work.encoder is None else self.encoder)
        with best.as_directory() as folder:
            load_average(Path(folder), network)
        with result.checkpoint.as_directory() as folder:
            history = History(**json.loads((Path(folder) / HISTORY).read_text(encoding="utf-8")))
        self.record["stages"][stage.name] = {
            "cider": metrics["cider"],
            "best_step": metrics["step"],
            "steps": history.step,
            "epochs": history.points[-1]["epoch"],
        }
        say(f"{stage.name}: best dev CIDEr-D {metrics['cider']:.1f} at step {metrics['step']:,}")
        return history.points

    def _checkpoints(self) -> tuple[str, pyarrow.fs.FileSystem | None]:
        """Where Ray Train keeps checkpoints: through the project's own storage, so the same options hold."""
        return self.storage.arrow(self.storage.join(self.output, "checkpoints"))

    def _save(self, corpus: TrainingCorpus, done: dict[str, Points]) -> None:
        """Write bundle, model card, curves and record, as they stand after a stage."""
        provenance = {"options": self.asked, "stages": self.record["stages"], "versions": versions()}
        captioner = Captioner(
            self.encoder, self.decoder, self.vocabulary, provenance=provenance, consensus=self.consensus
        )
        bundle = self.storage.join(self.output, "bundle")
        self.record["fingerprint"] = captioner.save(bundle, storage=self.storage)
        facts = {
            "version": captionkit.__version__,
            "decoder": self.decoder.name,
            "encoder": self.encoder.config["name"],
            "feature_shape": self.encoder.config["output"],
            "size": self.encoder.preprocessing.size,
            "parameters": sum(parameter.numel() for parameter in self.decoder.parameters()),
            "words": len(self.vocabulary),
            "train_images": len(corpus.train),
            "train_captions": sum(len(texts) for _, texts in corpus.train),
            "teacher": self.lessons.report,
            "corpus": ", ".join(uri.rpartition("/")[2] for uri in self.options.corpus.corpus),
            "stages": [(name, s["cider"], s["epochs"]) for name, s in self.record["stages"].items()],
            "beam": self.options.validate.beam,
            "options": self.asked,
            "neighbours": self.consensus.max_neighbours if self.consensus else 0,
        }
        self.storage.write(self.storage.join(bundle, "README.md"), model_card(facts).encode())
        write_curves(done, self.output, self.storage)
        self._write_record()

    def _read_record(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.storage.read(self.storage.join(self.output, RECORD)))
        except StorageError as err:
            if err.kind == "not_found":
                return None
            raise
        return found

    def _write_record(self) -> None:
        self.storage.write(self.storage.join(self.output, RECORD), json.dumps(self.record, indent=1).encode())


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=6).hexdigest()
