"""The paper's two LoRA stages: killed runs resume to the same losses, and what comes out is a codec, and PEFT's."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("peft", reason="training needs peft")

from nextmem_agents import CheckpointError, DataError, LatentCodec, NextMemError
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.quantization import Payload
from nextmem_agents.training import run_state, stage_2
from nextmem_agents.training.card import CARD_FILE
from nextmem_agents.training.lora_export import export_codec
from nextmem_agents.training.stage_1 import export_stage_1, train_stage_1
from nextmem_agents.training.stage_2 import Stage2Config, train_stage_2
from tests.training.lora import STAGE_1, STAGE_2, losses, write_backbone, write_texts

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Place:
    backbone: Path
    data: Path
    stage_1: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A backbone, texts, and a trained stage 1."""
    folder = tmp_path_factory.mktemp("stages")
    backbone, data = write_backbone(folder / "backbone"), write_texts(folder / "data")
    train_stage_1(STAGE_1, backbone, data, folder / "run-1")
    export_stage_1(folder / "run-1", backbone, folder / "stage-1")
    return Place(backbone, data, folder / "stage-1")


def test_stage_1_learns(place: Place) -> None:
    run = place.stage_1.parent / "run-1"
    found = losses(run)
    assert [step for step, _ in found] == [0, 1, 2, 3]
    assert found[-1][1] < found[0][1]
    names = {path.name for path in place.stage_1.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "special_tokens.safetensors", "stage_1.json",
        "tokenizer.json",
    }  # fmt: skip
    assert json.loads((place.stage_1 / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def killed_at(step: int) -> Callable[..., Any]:
    """A state that is never written: the run ends before, as a kill would end it."""
    original = run_state.save

    def save(run: Path, done: int, *rest: Any) -> None:
        if done >= step:
            raise KeyboardInterrupt
        original(run, done, *rest)

    return save


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    stage: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: Path) -> None:
        if stage == 1:
            config = dataclasses.replace(STAGE_1, corruption=0.2, gradient_accumulation=2)
            train_stage_1(config, place.backbone, place.data, run)
        else:
            config_2 = dataclasses.replace(STAGE_2, corruption=0.2, latent_noise=0.1, gradient_accumulation=2)
            train_stage_2(config_2, place.backbone, place.stage_1, place.data, run)

    train(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(run_state, "save", killed_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    assert len(losses(tmp_path / "killed")) == 4
    train(tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_run_killed_by_the_system_goes_on_to_the_same_weights(place: Place, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from nextmem_agents.training import loop, stage_2
        from tests.training.lora import STAGE_2
        kill_at = int(sys.argv[5])
        original = loop.rate_factor
        def rate_factor(step, config):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(step, config)
        loop.rate_factor = rate_factor
        stage_2.train_stage_2(STAGE_2, *map(Path, sys.argv[1:5]))
        """
    )
    arguments = [
        sys.executable,
        "-c",
        program,
        place.backbone,
        place.stage_1,
        place.data,
        tmp_path / "killed",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [*map(str, arguments), "3"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert run_state.newest(tmp_path / "killed") == (2, tmp_path / "killed" / "checkpoint-2")
    for run in ("killed", "whole"):
        train_stage_2(STAGE_2, place.backbone, place.stage_1, place.data, tmp_path / run)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [
        (tmp_path / run / "checkpoint-6" / "model.safetensors").read_bytes() for run in ("killed", "whole")
    ]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def codec_folder(place: Place) -> Path:
    folder = place.stage_1.parent
    train_stage_2(STAGE_2, place.backbone, place.stage_1, place.data, folder / "run-2")
    found = export_codec(
        folder / "run-2", place.backbone, place.stage_1, folder / "codec", copy_backbone=True
    )
    assert found is not None
    assert 0 < found.n <= STAGE_2.evaluate_texts
    return folder / "codec"


TEXTS = ["The harbour has 12 boats.", "x", "Fact 7: 🎉 and a long way to go for all of us."]


def test_the_codec_loads_and_recalls_exactly(codec_folder: Path) -> None:
    codec = LatentCodec.load(codec_folder)
    assert codec.config.name == "tiny-lora"
    assert codec.config.adapters
    assert codec.config.latent_scale != 1.0
    payloads = [
        [Payload.from_bytes(c.payload.to_bytes(b"b"), b"b") for c in chunks]
        for chunks in compress(codec, TEXTS)
    ]
    assert [(t.text, t.exact) for t in decompress(codec, payloads)] == [(text, True) for text in TEXTS]
    card = (codec_folder / CARD_FILE).read_text(encoding="utf-8")
    assert "# tiny-lora" in card
    assert "| f1 |" in card
    assert '"progressive": true' in card


def test_the_codec_computes_what_was_trained(codec_folder: Path, place: Place) -> None:
    codec = LatentCodec.load(codec_folder)
    run = place.stage_1.parent / "run-2"
    module, _ = stage_2.load_trained(STAGE_2, place.backbone, place.stage_1, run)
    rows = [row[:24] for row in codec.tokenizer.encode(TEXTS)]
    latents = codec.encode_ids(rows)
    trained = module.latents(rows, 6)
    for i, n in enumerate(latents.lengths.tolist()):
        torch.testing.assert_close(trained[i, :n].detach(), latents.values[i, :n], atol=2e-5, rtol=1e-4)


# PEFT asks transformers 5 for an attribute under its older name.
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_peft_reloads_the_adapters(codec_folder: Path) -> None:
    """Backbone, decoder adapter merged, encoder adapter on it: PEFT's own classes give the codec's latents."""
    import peft
    from transformers import Qwen3ForCausalLM

    from nextmem_agents.codec.backbone import Backbone
    from nextmem_agents.codec.encoder import encode_batch
    from nextmem_agents.codec.special_tokens import SpecialTokens

    codec = LatentCodec.load(codec_folder)
    model = Qwen3ForCausalLM.from_pretrained(codec_folder / "backbone", dtype=torch.float32)
    special = SpecialTokens.load(codec_folder)
    special.place(model)
    decoder = peft.PeftModel.from_pretrained(model, codec_folder / "decoder_adapter").merge_and_unload()
    encoder = peft.PeftModel.from_pretrained(decoder, codec_folder / "encoder_adapter").base_model.model
    rows = [row[:24] for row in codec.tokenizer.encode(TEXTS)]
    expected = codec.encode_ids(rows).values
    found, _ = encode_batch(Backbone(encoder, special), codec.config, rows)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    with_encoder_off = encoder
    for module in with_encoder_off.modules():
        if hasattr(module, "enable_adapters") and hasattr(module, "lora_A"):
            module.enable_adapters(False)
    without, _ = encode_batch(Backbone(with_encoder_off, special), codec.config, rows)
    assert (without - expected).abs().max() > 1e-4


def test_exporting_twice_or_too_early_is_a_clear_error(
    codec_folder: Path, place: Place, tmp_path: Path
) -> None:
    run = place.stage_1.parent / "run-2"
    with pytest.raises(CheckpointError, match="not empty"):
        export_codec(run, place.backbone, place.stage_1, codec_folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(CheckpointError, match="no training state"):
        export_codec(tmp_path / "run", place.backbone, place.stage_1, tmp_path / "codec")


def test_a_full_disk_is_a_clear_error_and_the_run_is_intact(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: Path) -> None:
        train_stage_2(STAGE_2, place.backbone, place.stage_1, place.data, run)

    original = run_state.save_file
    written: list[str] = []

    def full(tensors: Any, path: Path, *rest: Any) -> None:
        written.append(str(path))
        if len(written) > 3:  # the second file of the second state
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(run_state, "save_file", full)
        with pytest.raises(
            CheckpointError, match=r"No space left on device.*intact up to its last checkpoint"
        ):
            train(tmp_path / "full")
    assert run_state.newest(tmp_path / "full") == (2, tmp_path / "full" / "checkpoint-2")
    assert not list((tmp_path / "full").glob("*.partial"))
    train(tmp_path / "full")
    train(tmp_path / "roomy")
    assert losses(tmp_path / "full") == losses(tmp_path / "roomy")


def test_a_full_disk_while_exporting_leaves_no_codec(
    codec_folder: Path, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextmem_agents.codec import checkpoint

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = place.stage_1.parent / "run-2"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "copyfile", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            export_codec(run, place.backbone, place.stage_1, tmp_path / "codec")
    assert not [path for path in tmp_path.iterdir() if any(path.iterdir())]
    config = dataclasses.replace(STAGE_2, evaluate_texts=0)
    assert config.evaluate_texts == 0
    export_codec(run, place.backbone, place.stage_1, tmp_path / "codec")
    assert LatentCodec.load(tmp_path / "codec").fingerprint == LatentCodec.load(codec_folder).fingerprint


def test_other_settings_do_not_go_on_with_a_run(place: Place, tmp_path: Path) -> None:
    train_stage_2(dataclasses.replace(STAGE_2, steps=2), place.backbone, place.stage_1, place.data, tmp_path)
    changed = dataclasses.replace(STAGE_2, steps=2, learning_rate=1.0)
    with pytest.raises(CheckpointError, match=r"other settings \(learning_rate differ\)"):
        train_stage_2(changed, place.backbone, place.stage_1, place.data, tmp_path)


def test_bad_input_is_a_clear_error(place: Place, tmp_path: Path) -> None:
    def train(data: Path, stage_1: Path = place.stage_1, backbone: Path = place.backbone) -> None:
        train_stage_2(STAGE_2, backbone, stage_1, data, tmp_path / "run")

    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt has no text"):
        train(tmp_path / "empty.txt")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no text files"):
        train(tmp_path / "none")
    with pytest.raises(DataError, match="holds no text files"):
        train(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"lacks stage_1\.json"):
        train(place.data, stage_1=tmp_path)
    other = write_backbone(tmp_path / "other", intermediate_size=48)
    with pytest.raises(CheckpointError, match="trained on another one"):
        train(place.data, backbone=other)
    with pytest.raises(NextMemError, match="holds no readable tokenizer"):
        train_stage_1(STAGE_1, tmp_path / "none", place.data, tmp_path / "run-1")


def test_bf16_and_gradient_checkpointing_train(place: Place, tmp_path: Path) -> None:
    config = dataclasses.replace(
        STAGE_2, steps=2, dtype="bfloat16", mixed_precision="bf16", gradient_checkpointing=True
    )
    train_stage_2(config, place.backbone, place.stage_1, place.data, tmp_path / "bf16")
    plain = dataclasses.replace(STAGE_2, steps=2)
    train_stage_2(plain, place.backbone, place.stage_1, place.data, tmp_path / "fp32")
    for (_, a), (_, b) in zip(losses(tmp_path / "bf16"), losses(tmp_path / "fp32"), strict=True):
        assert a == pytest.approx(b, rel=0.02)
    norms = [
        json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[0])["gradient_norm"]
        for run in ("bf16", "fp32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.2)
    kept = run_state.load_file(tmp_path / "bf16" / "checkpoint-2" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_4_bit_backbones_train(tmp_path: Path) -> None:
    """QLoRA: the frozen weights in NF4, the adapters beside them; the codec loads in 4 bits, too."""
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    backbone, data = write_backbone(tmp_path / "backbone"), write_texts(tmp_path / "data")
    one = dataclasses.replace(STAGE_1, steps=2, load_in_4bit=True, gradient_checkpointing=True)
    train_stage_1(one, backbone, data, tmp_path / "run-1")
    export_stage_1(tmp_path / "run-1", backbone, tmp_path / "stage-1")
    two = dataclasses.replace(STAGE_2, steps=2, load_in_4bit=True, gradient_checkpointing=True)
    train_stage_2(two, backbone, tmp_path / "stage-1", data, tmp_path / "run-2")
    module, _ = stage_2.load_trained(two, backbone, tmp_path / "stage-1", tmp_path / "run-2")
    kinds = {type(m).__name__ for m in module.decoder.modules()}
    assert "Linear4bit" in kinds
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    assert names
    assert all("lora" in name and ".default." in name for name in names)
    export_codec(tmp_path / "run-2", backbone, tmp_path / "stage-1", tmp_path / "codec")
    codec = LatentCodec.load(tmp_path / "codec", load_in_4bit=True)
    rows = codec.tokenizer.encode(["The harbour has 12 boats."])
    trained = module.latents(rows, 6).detach()
    torch.testing.assert_close(trained, codec.encode_ids(rows).values, atol=1e-3, rtol=1e-2)


def test_two_processes_share_a_batch(place: Place, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, dataclasses
        from pathlib import Path
        from nextmem_agents.training import stage_2
        from tests.training.lora import STAGE_2
        stage_2.train_stage_2(dataclasses.replace(STAGE_2, steps=2), *map(Path, sys.argv[1:5]))
        """
    )
    (tmp_path / "two.py").write_text(program)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", str(tmp_path / "two.py"),
        str(place.backbone), str(place.stage_1), str(place.data), str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    train_stage_2(
        dataclasses.replace(STAGE_2, steps=2), place.backbone, place.stage_1, place.data, tmp_path / "one"
    )
    one = json.loads((tmp_path / "one" / "log.jsonl").read_text().splitlines()[0])
    assert rows[0]["tokens"] > 1.5 * one["tokens"]


def test_the_paper_s_layout_of_fifteen_latents_trains(place: Place, tmp_path: Path) -> None:
    stage = tmp_path / "stage-1"
    one = dataclasses.replace(STAGE_1, steps=1, positions="consecutive")
    train_stage_1(one, place.backbone, place.data, tmp_path / "run-1")
    export_stage_1(tmp_path / "run-1", place.backbone, stage)
    config = Stage2Config(
        **{
            **dataclasses.asdict(STAGE_2),
            "steps": 15,
            "batch_size": 1,
            "tokens_per_latent": None,
            "fixed_latents": 15,
            "block_tokens": 2,
            "latent_scale": 1.0,
            "last_share": 1 / 15,
            "lora_targets": STAGE_2.lora_targets,
        }
    )
    train_stage_2(config, place.backbone, stage, place.data, tmp_path / "run-2")
    rows = [json.loads(line) for line in (tmp_path / "run-2" / "log.jsonl").read_text().splitlines()]
    assert [row["blocks"] for row in rows] == list(range(1, 16))
    export_codec(tmp_path / "run-2", place.backbone, stage, tmp_path / "codec")
    codec = LatentCodec.load(tmp_path / "codec")
    assert codec.encode(["A short text."]).values.shape[1] == 15
