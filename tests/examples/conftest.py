"""The tiny codec of the evaluation's tests."""

from tests.evaluation.conftest import tiny_folder

__all__ = ["tiny_folder"]
