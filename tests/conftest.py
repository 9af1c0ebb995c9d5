"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, here and in children: threads of one process that wait for each other take minutes over what
# one does in seconds, where other processes have the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers run at nice 15, and would starve beside the tests without Ray.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
import ray

from tests.support.archive import Folder, jpeg
from tests.support.servers import S3Server, file_server, s3_server


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: tests that start Ray run one after another, in one process with one Ray, and first, since
    they take longest; those of any other file stay together, for the sake of its fixtures."""
    groups: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        with_ray = bool(item.get_closest_marker("ray")) or "ray_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if with_ray else item.location[0]))
        groups[with_ray].append(item)
    items[:] = [*groups[True], *groups[False]]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes by their type alone: an archive's hold the time, and processes that collect other names run no test."""
    return "bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server, to which this process and its children are pointed by the AWS_ variables."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in server.env().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A fresh bucket's name."""
    return s3.make_bucket()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the http address under which its files are served."""
    folder = tmp_path / "web"
    folder.mkdir()
    with file_server(folder) as address:
        yield folder, address


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Server) -> Iterator[None]:
    """One Ray for all tests, of two CPUs, which a caption job joins; started after `s3`, whose variables its
    workers inherit."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=300 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "archive")
    made.path.mkdir()
    return made


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Twelve small pictures."""
    return [jpeg(seed) for seed in range(12)]
