"""Connections to an S3 server, as the options and the environment say."""

from __future__ import annotations

import functools
import os
from datetime import datetime
from typing import Any

from captionkit.storage.options import StorageOptions


def filesystem(options: StorageOptions, retries: bool) -> Any:
    """s3fs's filesystem, which connects when first used; retries: with those of the libraries."""
    from aiobotocore.session import AioSession  # here, as it takes a second that local work need not wait for
    from s3fs import S3FileSystem

    session = AioSession(profile=options.profile)
    session.register_component("data_loader", _loader())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    # AWS_REGION is what most S3 tools read; botocore itself knows only AWS_DEFAULT_REGION.
    region = options.region or os.environ.get("AWS_REGION")
    wait = options.timeout_seconds
    config: dict[str, Any] = {"max_pool_connections": 128, "connect_timeout": min(10.0, wait), "read_timeout": wait}
    if options.path_style:
        config["s3"] = {"addressing_style": "path"}
    if not retries:
        config["retries"] = {"total_max_attempts": 1, "mode": "standard"}
    fs = S3FileSystem(
        anon=options.anonymous,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs=config,
        session=session,
        use_listings_cache=False,
        skip_instance_cache=True,  # its own cache does not see when AWS_… variables change
        max_concurrency=1,
        default_block_size=8 << 20,
        default_fill_cache=False,
    )
    if not retries:
        fs.retries = 1
    return fs


@functools.cache
def _loader() -> Any:
    """botocore's descriptions of its services, megabytes of JSON, read once and not for each connection."""
    from botocore.loaders import create_loader

    return create_loader(os.environ.get("AWS_DATA_PATH"))


def parse_time(value: Any) -> datetime:
    """A time as S3 writes it. botocore asks dateutil, which takes more than half of a listing's processor time."""
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):  # of another form, such as a header's
        from botocore.utils import parse_timestamp

        return parse_timestamp(value)  # type: ignore[no-any-return]
