from hypothesis import given
from hypothesis import strategies as st

from captionkit.pipeline.sealing import new_key, seal


@given(st.binary(max_size=300), st.text(max_size=20))
def test_only_key_and_name_open_what_they_sealed(data: bytes, name: str) -> None:
    key = new_key()
    sealed = seal(data, key, name)
    assert len(sealed) == len(data)
    assert seal(sealed, key, name) == data
    if len(data) >= 16:  # by chance 16 bytes are the same once in 2^128 times
        assert sealed != data
        assert seal(sealed, new_key(), name) != data
        assert seal(sealed, key, f"{name}x") != data
        assert seal(data, key, f"{name}x") != sealed
