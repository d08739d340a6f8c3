from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.errors import InvalidArgument


def config(**changes: Any) -> CodecConfig:
    return CodecConfig(**{"name": "x", "start_of_decode": 1, "end_of_text": 0, **changes})


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    before = config(end_tokens=(3, 4), quantization_table=(0.5, 2.0), backbone="Qwen/Qwen3-8B", adapters=True)
    before.save(tmp_path)
    assert CodecConfig.load(tmp_path) == before


def test_every_end_token_ends_generation() -> None:
    assert config(end_tokens=(3, 4)).ends == {0, 3, 4}


@pytest.mark.parametrize(("tokens", "latents"), [(1, 1), (8, 1), (9, 2), (20, 3), (128, 16)])
def test_latents_grow_with_the_text(tokens: int, latents: int) -> None:
    assert config().latents_for(tokens) == latents


@pytest.mark.parametrize(
    "changes",
    [
        {"fixed_latents": 15},
        {"tokens_per_latent": None},
        {"tokens_per_latent": 0},
        {"max_tokens": 0},
        {"max_tokens": 12.5},
        {"positions": "other"},
        {"positions": "aligned", "tokens_per_latent": None, "fixed_latents": 15},
        {"latent_scale": 0.0},
        {"latent_scale": float("nan")},
        {"quantization": "other"},
        {"answer_layout": "other"},
    ],
)
def test_settings_that_make_no_codec_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        config(**changes)
