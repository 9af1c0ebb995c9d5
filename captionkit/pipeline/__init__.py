"""The caption job on Ray: manifest, fetch and decode, captioner actors, the stream between them.

    from captionkit.inputs import InputOptions
    from captionkit.pipeline import CaptionJob, CaptionOptions, OutputOptions

    CaptionJob(CaptionOptions(InputOptions(("photos/",)), OutputOptions("captions/"))).run()

The names below are imported when they are first used, so that `--help` needs neither torch nor Ray.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.pipeline.caption_actor import ActorOptions, CaptionActor
    from captionkit.pipeline.fetch import FetchOptions
    from captionkit.pipeline.job import CaptionJob
    from captionkit.pipeline.options import CaptionOptions, ClusterOptions, ModelOptions, OutputOptions, WordOptions
    from captionkit.pipeline.run_record import RunRecord
    from captionkit.pipeline.signals import JobStopped
    from captionkit.pipeline.stream import caption_stream

__all__ = [
    "ActorOptions",
    "CaptionActor",
    "CaptionJob",
    "CaptionOptions",
    "ClusterOptions",
    "FetchOptions",
    "JobStopped",
    "ModelOptions",
    "OutputOptions",
    "RunRecord",
    "WordOptions",
    "caption_stream",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ActorOptions": "caption_actor",
        "CaptionActor": "caption_actor",
        "CaptionJob": "job",
        "CaptionOptions": "options",
        "ClusterOptions": "options",
        "FetchOptions": "fetch",
        "JobStopped": "signals",
        "ModelOptions": "options",
        "OutputOptions": "options",
        "RunRecord": "run_record",
        "WordOptions": "options",
        "caption_stream": "stream",
    },
)
