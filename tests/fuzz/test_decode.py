"""Whatever the bytes, decoding ends in pixels of the right shape or in an ImageError of a known kind."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from captionkit.images import ERROR_KINDS, Decoded, ImageError, Limits, Preprocessing, Sandbox, decode
from tests.fuzz.damage import damage, seeds

pytestmark = pytest.mark.slow

SMALL = Preprocessing(size=48, resize=56)
# Damaged headers claim much; less than this is decoded in no time.
LIMITS = Limits(max_pixels=4_000_000)
FILES = seeds()
SEED = 20_000
FAMILIES = sorted({name.rpartition(".")[2] for name, _ in FILES})


def check(outcome: Decoded | ImageError) -> None:
    if isinstance(outcome, ImageError):
        assert outcome.kind in ERROR_KINDS
        assert str(outcome)
        assert "\n" not in str(outcome)
    else:
        assert outcome.pixels.shape == (48, 48, 3)
        assert outcome.pixels.dtype == np.uint8
        assert 0 < outcome.width * outcome.height <= LIMITS.max_pixels


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(FILES), st.sampled_from(FILES), st.randoms(use_true_random=False))
def test_damaged_files_in_this_process(file: tuple[str, bytes], other: tuple[str, bytes], rng: random.Random) -> None:
    note(f"{file[0]} with {other[0]}")
    try:
        check(decode(damage(file[1], other[1], rng), SMALL, LIMITS))
    except ImageError as err:
        check(err)


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted({data[:16] for _, data in FILES})), st.binary(max_size=300))
def test_noise_behind_a_signature(start: bytes, noise: bytes) -> None:
    try:
        check(decode(start + noise, SMALL, LIMITS))
    except ImageError as err:
        check(err)


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_files_in_a_sandbox(family: str) -> None:
    """Where a decoder's crash can be seen; one is the decoder's fault, costs its row, and is printed with its seed."""
    rng = random.Random(f"{SEED} {family}")
    own = [(name, data) for name, data in FILES if name.endswith(family)]
    with Sandbox(SMALL, LIMITS, threads=4, seconds=60) as sandbox:
        for start in range(0, 512, 64):
            names, mutants = [], []
            for n in range(start, start + 64):
                seed = rng.randrange(2**32)
                name, data = own[n % len(own)]
                other = rng.choice(rng.choice([own, FILES]))[1]
                names.append(f"{name} seed {seed}")
                mutants.append(damage(data, other, random.Random(seed)))
            outcomes = sandbox.decode_many(mutants)
            assert len(outcomes) == 64
            for name, mutant, outcome in zip(names, mutants, outcomes, strict=True):
                check(outcome)
                if isinstance(outcome, ImageError) and outcome.kind in ("decoder_crashed", "decode_timeout"):
                    print(f"{name}: {outcome.kind}: {outcome}: {mutant[:2000].hex()}")
