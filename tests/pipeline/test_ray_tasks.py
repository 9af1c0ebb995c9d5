"""Listing and asking as Ray tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from captionkit.inputs import listing as listing_module
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.ray_tasks import RayTasks
from captionkit.storage import Storage, StorageError, StorageOptions, retry_counts
from captionkit.storage import s3 as s3_module
from captionkit.storage.spread import Spread
from tests.support.archive import Folder
from tests.support.proxy import fault_proxy
from tests.support.servers import S3Server

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def spread() -> Iterator[Spread]:
    tasks = RayTasks()
    yield Spread(tasks, 4)
    tasks.shutdown()


def test_work_is_done_elsewhere_and_its_errors_come_back(spread: Spread, bucket: str) -> None:
    assert spread.executor.submit(os.getpid).result() != os.getpid()
    with pytest.raises(StorageError) as caught:
        spread.executor.submit(Storage().read, f"s3://{bucket}/none.jpg").result()
    assert caught.value.kind == "not_found"


def test_nothing_is_begun_after_the_run_has_left_ray() -> None:
    tasks = RayTasks()
    tasks.shutdown()
    with pytest.raises(RuntimeError):
        tasks.submit(os.getpid)


def items(address: str, storage: Storage, spread: Spread | None) -> list[InputItem]:
    return list(Inputs(InputOptions((address,)), storage, spread=spread).items())


def test_a_prefix_is_listed_by_tasks_as_it_is_by_one_process(
    s3: S3Server, bucket: str, spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried again there counts here."""
    client = s3.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.put_object(Bucket=bucket, Key=f"in/{n:04d}.jpg", Body=b"x"), range(1010)))
    monkeypatch.setattr(s3_module, "FIRST_PAGES", 1)
    with fault_proxy(s3.endpoint) as proxy:
        storage = Storage(StorageOptions(endpoint_url=proxy.endpoint))
        alone = items(f"s3://{bucket}/in/", storage, None)
        proxy.clear()
        proxy.fault("status", "start-after=in%2F0999.jpg", status=500, times=1)
        before = retry_counts().get("server_error", 0)
        assert items(f"s3://{bucket}/in/", storage, spread) == alone
        assert len(alone) == 1010
        assert proxy.faulted == 1
        assert retry_counts()["server_error"] == before + 1


def test_addresses_of_a_list_are_asked_for_by_tasks(
    s3: S3Server, bucket: str, folder: Folder, spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, with the same answers, missing ones among them; a bucket that is not there ends it."""
    monkeypatch.setattr(listing_module, "STAT_BATCH", 5)
    for number in range(12):
        Storage().write(f"s3://{bucket}/{number}.jpg", b"x" * number)
    uris = [f"s3://{bucket}/{number}.jpg" for number in (3, 1, 99, *range(12), 1)]
    asked: list[Any] = []
    monkeypatch.setattr(Storage, "stat_many", lambda *_: asked.append(1))  # of this process
    found = items(folder.add("list.txt", "\n".join(uris).encode()), Storage(), spread)
    assert not asked
    monkeypatch.undo()
    assert found == items(f"{folder.path}/list.txt", Storage(), None)
    assert [item.version == "" for item in found] == [uri.endswith("/99.jpg") for uri in uris]
    monkeypatch.setattr(listing_module, "STAT_BATCH", 5)
    listing = folder.add("none.txt", "\n".join(f"s3://no-such-bucket-here/{n}.jpg" for n in range(9)).encode())
    with pytest.raises(StorageError, match="bucket"):
        items(listing, Storage(), spread)
    assert len(items(folder.add("local.txt", "\n".join(map(str, range(9))).encode()), Storage(), spread)) == 9
