from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextmem_agents import LatentCodec
from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.errors import CheckpointError, CodecMismatch
from tests.codec.conftest import Folders
from tests.codec.tiny import TEXTS


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


WHOLE_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no configuration": (
        lambda f: (f / "nextmem.json").unlink(),
        "holds a backbone, but no codec.*nextmem train",
    ),
    "no JSON": (lambda f: truncate(f / "nextmem.json"), "cannot be read as a codec configuration"),
    "no version": (
        lambda f: (f / "nextmem.json").write_text("{}"),
        "cannot be read as a codec configuration",
    ),
    "newer format": (lambda f: change_json(f / "nextmem.json", format_version=2), "update nextmem-agents"),
    "wrong value": (lambda f: change_json(f / "nextmem.json", max_tokens="many"), "whole numbers"),
    "unknown layout": (lambda f: change_json(f / "nextmem.json", answer_layout="x"), "answer_layout"),
    "no fingerprint": (lambda f: change_json(f / "nextmem.json", fingerprint=None), "has no fingerprint"),
    "another setting": (lambda f: change_json(f / "nextmem.json", latent_scale=2.0), "was altered"),
    "altered weights": (lambda f: change_weights(f / "model.safetensors"), "was altered"),
    "altered tokenizer": (lambda f: change_json(f / "tokenizer.json", normalizer=None), "was altered"),
    "another RoPE": (lambda f: change_json(f / "config.json", rope_theta=5e5), "was altered"),
    "another model": (lambda f: change_json(f / "config.json", model_type="llama"), "'llama' model"),
    "no model": (lambda f: (f / "config.json").unlink(), "checkpoint is incomplete"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
    "truncated weights": (lambda f: truncate(f / "model.safetensors"), "truncated"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "half a tokenizer": (lambda f: truncate(f / "tokenizer.json"), "tokenizer"),
}


@pytest.mark.parametrize("damage", WHOLE_DAMAGE)
def test_a_damaged_checkpoint_is_one_clear_error(whole: LatentCodec, tmp_path: Path, damage: str) -> None:
    harm, message = WHOLE_DAMAGE[damage]
    assert whole.folder is not None
    shutil.copytree(whole.folder, tmp_path / "c")
    harm(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message):
        LatentCodec.load(tmp_path / "c")


ADAPTED_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no adapters": (
        lambda f: list(map(shutil.rmtree, f.glob("*_adapter"))),
        "lacks decoder_adapter and encoder_adapter.*nextmem train.*stage_1_checkpoint-3092",
    ),
    "no encoder": (lambda f: shutil.rmtree(f / "encoder_adapter"), "lacks encoder_adapter"),
    "an altered adapter": (
        lambda f: change_weights(f / "encoder_adapter/adapter_model.safetensors"),
        "was altered",
    ),
    "another alpha": (
        lambda f: change_json(f / "decoder_adapter/adapter_config.json", lora_alpha=9),
        "was altered",
    ),
    "altered tokens": (lambda f: change_weights(f / "special_tokens.safetensors"), "was altered"),
    "no tokens": (lambda f: (f / "special_tokens.safetensors").unlink(), "was altered"),
    "truncated tokens": (lambda f: truncate(f / "special_tokens.safetensors"), "cannot be read"),
    "no backbone": (
        lambda f: change_json(f / "nextmem.json", backbone="/nowhere/at-all"),
        "give a checkpoint folder",
    ),
    "no such hub id": (lambda f: change_json(f / "nextmem.json", backbone="no/such"), "allow_download=True"),
}


@pytest.mark.parametrize("damage", ADAPTED_DAMAGE)
def test_a_damaged_checkpoint_with_adapters_is_too(adapted: LatentCodec, tmp_path: Path, damage: str) -> None:
    harm, message = ADAPTED_DAMAGE[damage]
    adapted.save_pretrained(tmp_path / "c")
    harm(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message):
        LatentCodec.load(tmp_path / "c")


def test_what_is_no_codec_at_all_is_named(tmp_path: Path, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match="there is no codec"):
        LatentCodec.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"holds no nextmem\.json"):
        LatentCodec.load(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no adapters\. Train .*`nextmem train`.*stage_2_checkpoint-15"
    ):
        LatentCodec.load(folders[0])
    with pytest.raises(CheckpointError, match="nothing is downloaded unless"):
        LatentCodec.load("nobody/nothing-of-this-name")


def test_saved_and_loaded_it_is_the_same_codec(any_codec: LatentCodec, tmp_path: Path) -> None:
    any_codec.save_pretrained(tmp_path / "c")
    back = LatentCodec.load(tmp_path / "c")
    assert back.fingerprint == any_codec.fingerprint
    assert dataclasses.replace(back.config, backbone=None) == dataclasses.replace(
        any_codec.config, backbone=None
    )
    latents = any_codec.encode(TEXTS)
    assert torch.equal(back.encode(TEXTS).values, latents.values)
    assert back.decode(latents, max_new_tokens=16) == any_codec.decode(latents, max_new_tokens=16)


@pytest.mark.parametrize("copy_backbone", [False, True])
def test_a_backbone_is_referred_to_or_brought_along(
    adapted: LatentCodec, folders: Folders, tmp_path: Path, copy_backbone: bool
) -> None:
    adapted.save_pretrained(tmp_path / "first", copy_backbone=copy_backbone)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    back = LatentCodec.load(tmp_path / "moved")
    assert back.fingerprint == adapted.fingerprint
    assert back.config.backbone == ("backbone" if copy_backbone else str(folders[0]))
    assert (tmp_path / "moved" / "backbone").exists() == copy_backbone
    # Brought along, it stays with the codec; and saved again, it is as it was.
    back.save_pretrained(tmp_path / "second")
    assert LatentCodec.load(tmp_path / "second").fingerprint == adapted.fingerprint


def test_nothing_is_written_over(whole: LatentCodec, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        whole.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not empty"):
        whole.save_pretrained(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_name_and_the_place_do_not_make_another_codec(whole: LatentCodec) -> None:
    assert whole.folder is not None
    renamed = dataclasses.replace(whole.config, name="x", fingerprint=None)
    assert checkpoint.fingerprint(whole.folder, renamed) == whole.fingerprint
    other = dataclasses.replace(whole.config, max_tokens=64)
    assert checkpoint.fingerprint(whole.folder, other) != whole.fingerprint


def test_latents_of_another_codec_are_refused(whole: LatentCodec, fixed: LatentCodec) -> None:
    with pytest.raises(CodecMismatch, match="use the codec that made them"):
        whole.decode(fixed.encode(TEXTS))


def test_settings_of_a_later_version_are_left_aside(whole: LatentCodec, tmp_path: Path) -> None:
    assert whole.folder is not None
    shutil.copytree(whole.folder, tmp_path / "c")
    change_json(tmp_path / "c" / "nextmem.json", from_the_future=[1, 2])
    assert LatentCodec.load(tmp_path / "c").config == whole.config
    assert CodecConfig.load(tmp_path / "c").fingerprint == whole.fingerprint
