"""Fixtures for tests of what is deployed."""

from tests.pipeline.conftest import folder

__all__ = ["folder"]
