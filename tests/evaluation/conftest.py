"""A tiny codec for everything that needs a store and no sense, and tiny ones that answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents import LatentCodec
from tests.codec import tiny
from tests.evaluation.tiny_study import write_locomo


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_whole(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tiny_folder: Path) -> LatentCodec:
    return LatentCodec.load(tiny_folder)


@pytest.fixture(scope="session", params=["reader", "released"])
def answering_codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    """Codecs that answer, if only nonsense: in the layout of readers trained here, and in the released one."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny.write_whole(folder, name=f"tiny-{request.param}", answer_layout=request.param)
    return LatentCodec.load(folder)


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    return write_locomo(tmp_path)
