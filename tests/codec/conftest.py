"""Codecs that are made once and only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents import LatentCodec
from tests.codec import tiny

Folders = tuple[Path, Path, Path]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    """A codec without adapters: variable length, aligned positions."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.write_whole(folder)
    return LatentCodec.load(folder)


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    """A codec without adapters: five latents whatever the length, consecutive positions."""
    folder = tmp_path_factory.mktemp("fixed")
    tiny.write_whole(folder, tokens_per_latent=None, fixed_latents=5, positions="consecutive")
    return LatentCodec.load(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """(base, stage_1, stage_2), laid out as the released ones."""
    return tiny.write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def adapted(folders: Folders) -> LatentCodec:
    """A codec with two adapters and special tokens."""
    return LatentCodec.load_official(*folders)


@pytest.fixture(params=["whole", "fixed", "adapted"])
def any_codec(request: pytest.FixtureRequest) -> LatentCodec:
    """Each kind of codec in turn."""
    codec: LatentCodec = request.getfixturevalue(request.param)
    return codec
