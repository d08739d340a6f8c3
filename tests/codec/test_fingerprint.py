from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nextmem_agents.codec import fingerprint
from nextmem_agents.codec.checkpoint import Parts
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.errors import CheckpointError
from tests.codec import tiny

CONFIG = CodecConfig(name="x", start_of_decode=1, end_of_text=0)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    tiny.write_backbone(tmp_path)
    return Parts(tmp_path, (tmp_path / "tokenizer.json").read_text())


def test_settings_at_their_default_do_not_enter(parts: Parts) -> None:
    explicit = CodecConfig(name="y", start_of_decode=1, end_of_text=0, end_tokens=(), latent_scale=1.0)
    assert fingerprint.digest(explicit, parts) == fingerprint.digest(CONFIG, parts)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    ],
)
def test_it_does_not_depend_on_how_transformers_spells_rope(
    parts: Parts, spelling: dict[str, object]
) -> None:
    before = fingerprint.digest(CONFIG, parts)
    path = parts.backbone / "config.json"
    settings = json.loads(path.read_text())
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        settings.pop(key, None)
    path.write_text(json.dumps(settings | spelling))
    assert fingerprint.digest(CONFIG, parts) == before


def test_scaled_rope_is_another_codec(parts: Parts) -> None:
    before = fingerprint.digest(CONFIG, parts)
    path = parts.backbone / "config.json"
    settings = json.loads(path.read_text())
    yarn = {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0}
    path.write_text(json.dumps(settings | {"rope_parameters": yarn}))
    assert fingerprint.digest(CONFIG, parts) != before


@pytest.mark.parametrize("where", [0, 200_000, -1])
def test_large_weights_are_sampled_at_both_ends_and_between(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, where: int
) -> None:
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 0)
    values = torch.zeros(400_000)
    save_file({"large": values}, parts.backbone / "model.safetensors")
    before = fingerprint.digest(CONFIG, parts)
    assert fingerprint.digest(CONFIG, parts) == before
    # A fine-tuned weight differs everywhere; this one differs in a hundredth of its values around one place.
    values[where:][:4000] = 1
    if where < 0:
        values[-4000:] = 1
    values[where : where + 27_000] = 1
    save_file({"large": values}, parts.backbone / "model.safetensors")
    assert fingerprint.digest(CONFIG, parts) != before


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x09" + b"\0" * 7 + b'{"a": {}}']
)
def test_what_is_no_safetensors_file_is_named(parts: Parts, content: bytes) -> None:
    (parts.backbone / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no complete safetensors file"):
        fingerprint.digest(CONFIG, parts)


def test_a_missing_shard_is_named(parts: Parts) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (parts.backbone / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks model-00001-of-00002"):
        fingerprint.digest(CONFIG, parts)
