"""Requests, bytes and regions of a plan."""

from __future__ import annotations

from collections import Counter

import pytest

from captionkit.plan.options import BudgetOptions
from captionkit.plan.sample import Archive, Sample
from captionkit.plan.traffic import traffic
from captionkit.storage import Storage, StorageOptions
from tests.support.servers import S3Server

ARCHIVE = Archive(
    images=2_500_000,
    shards=500,
    shard_bytes=100 * 10**9,
    listed_bytes=2_000_000 * 10**5,
    sized=2_000_000,
    buckets=Counter({"here": 500_500, "there": 1_500_000}),
)


class Regions(Storage):
    """Storage whose buckets lie in two regions."""

    def region(self, uri: str) -> str | None:
        return {"s3://here/": "us-west-2", "s3://there/": "eu-west-1"}.get(uri)


def test_requests_bytes_and_what_leaves_its_region_are_counted() -> None:
    budget = BudgetOptions(machines_region="us-west-2", egress_rate=0.02, get_rate=0.4, list_rate=5)
    found = traffic(budget, ARCHIVE, Sample(), Regions())
    assert found is not None
    assert (found.gets, found.lists) == (2_000_500, 2001)
    assert found.gigabytes == pytest.approx(300)
    assert found.request_dollars == pytest.approx((2_000_500 * 0.4 + 2001 * 5) / 1e6)
    assert found.elsewhere == {"there": "eu-west-1"}
    assert found.egress_gigabytes == pytest.approx(300 * 1_500_000 / 2_000_500)
    assert found.egress_dollars == pytest.approx(found.egress_gigabytes * 0.02)
    warning = found.lines()[-1]
    assert "WARNING: there in eu-west-1, and the machines in us-west-2" in warning


@pytest.mark.parametrize("region", ["eu-west-1", None])
def test_nothing_is_said_where_nothing_leaves_or_nobody_knows(
    region: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    archive = Archive(images=5, buckets=Counter({"there": 5}))
    found = traffic(BudgetOptions(machines_region=region), archive, Sample(images=2, bytes=2 * 10**6), Regions())
    assert found is not None
    assert (found.elsewhere, found.egress_dollars, len(found.lines())) == ({}, 0, 1)
    assert found.gigabytes == pytest.approx(0.005)
    assert traffic(BudgetOptions(), Archive(images=3), Sample(), Regions()) is None


def test_a_bucket_says_where_it_is_or_nothing(bucket: str, s3: S3Server) -> None:
    assert Storage().region(f"s3://{bucket}/") in (None, "us-east-1", "default")
    gone = Storage(StorageOptions(endpoint_url=s3.endpoint, retry_seconds=0.1))
    assert gone.region("s3://no-such-bucket-at-all/") is None
    assert Storage().region("/tmp") is None
