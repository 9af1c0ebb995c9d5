from __future__ import annotations

import os
from pathlib import Path

import pytest

from captionkit.errors import UsageError
from captionkit.pipeline.ray_address import await_head, check_ray, named_cluster
from tests.support.servers import free_port


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://ray.example.org", "nonsense", "head:99999"])
def test_what_can_be_no_cluster_s_address_is_refused_by_the_name_of_its_source(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"^--address {address}: .*Leave out --address"):
        check_ray(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=f"^RAY_ADDRESS {address}: .*Unset RAY_ADDRESS"):
        check_ray(None)


@pytest.mark.parametrize("address", ["auto", "head:6379", "[::1]:6379", "ray://head:10001", "local", None])
def test_addresses_of_clusters_pass(address: str | None) -> None:
    check_ray(address)


def test_an_option_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_cluster(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert named_cluster(None) == ("auto", "RAY_ADDRESS")
    assert named_cluster("head:1") == ("head:1", "--address")
    assert named_cluster("local") is None


def test_a_head_that_does_not_answer_is_waited_for_aloud_and_not_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UsageError, match=f"RAY_ADDRESS {address}: no Ray head answers there"):
        await_head(address, "RAY_ADDRESS", seconds=0.01)
    await_head("auto", "--address")  # Ray looks for it
    with pytest.raises(UsageError):
        await_head(address, "--address", seconds=0.1)
    assert f"for the Ray head at {address} (--address)" in capsys.readouterr().err


@pytest.mark.slow
def test_another_program_s_port_is_told_from_a_head(web: tuple[Path, str]) -> None:
    address = web[1].removeprefix("http://").rstrip("/")
    with pytest.raises(UsageError, match="something answers there that is no Ray head"):
        await_head(address, "--address")


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_deep_for_sockets_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path / ("deep" * 25)))
    with pytest.raises(UsageError, match=f"^{name} .*too long a path.*Set RAY_TMPDIR"):
        check_ray(None)
    check_ray("head:6379")  # nothing is started here then
    monkeypatch.setenv("RAY_TMPDIR", os.sep + "tmp")
    check_ray(None)
