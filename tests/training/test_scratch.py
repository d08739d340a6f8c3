"""A run from scratch: it learns, stops, resumes to the same losses, and gives a codec that loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nextmem_agents import CheckpointError, DataError, InvalidArgument, LatentCodec
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.quantization import Payload
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.export import export_run
from nextmem_agents.training.optimizer import SplitOptimizer, rate_factor
from nextmem_agents.training.scratch import build, load_state, save_state, train_from_scratch
from nextmem_agents.training.settings import load as load_settings
from nextmem_agents.training.settings import save as save_settings
from tests.training.conftest import SETTINGS


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    settings: ScratchConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_from_scratch(settings, data, tmp_path / "whole", compile_model=False)

    from nextmem_agents.training import scratch

    class Killed(Exception):
        pass

    original = scratch.rate_factor

    def killed_at_step_5(step: int, config: ScratchConfig) -> float:
        if step == 5:  # a step after the last checkpoint
            raise Killed
        return original(step, config)

    monkeypatch.setattr(scratch, "rate_factor", killed_at_step_5)
    with pytest.raises(Killed):
        train_from_scratch(settings, data, tmp_path / "resumed", compile_model=False)
    monkeypatch.setattr(scratch, "rate_factor", original)
    train_from_scratch(settings, data, tmp_path / "resumed", compile_model=False)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


def test_an_exported_codec_loads_and_gives_texts_back_exactly(
    settings: ScratchConfig, data: Path, tmp_path: Path
) -> None:
    train_from_scratch(replace(settings, steps=2), data, tmp_path / "run", compile_model=False)
    export_run(tmp_path / "run", tmp_path / "codec")
    codec = LatentCodec.load(tmp_path / "codec")
    assert codec.config.name == "tiny"
    assert len(codec.config.quantization_table or ()) == settings.hidden_size
    texts = ["The harbour has 12 boats.", "🎉 漢字", "x" * 300]
    payloads = [
        [Payload.from_bytes(c.payload.to_bytes(b"b"), b"b") for c in chunks]
        for chunks in compress(codec, texts)
    ]
    assert [(t.text, t.exact) for t in decompress(codec, payloads)] == [(text, True) for text in texts]
    with pytest.raises(CheckpointError, match="not empty"):
        export_run(tmp_path / "run", tmp_path / "codec")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"stesp": 3}', "unknown setting 'stesp'"), ("[]", "mapping")],
)
def test_a_bad_configuration_names_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_settings(ScratchConfig, tmp_path / "c.json")


def test_missing_and_empty_data_are_clear_errors(settings: ScratchConfig, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no nothing"):
        train_from_scratch(
            replace(settings, sources={"nothing": 1.0}), data, tmp_path / "a", compile_model=False
        )
    (data / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="'empty' has no text"):
        train_from_scratch(
            replace(settings, sources={"facts": 1.0, "empty": 1.0}), data, tmp_path / "b", compile_model=False
        )
    (data / "broken.jsonl").write_text('{"txt": "no"}')
    with pytest.raises(DataError, match="line 1"):
        train_from_scratch(
            replace(settings, sources={"broken": 1.0}), data, tmp_path / "c", compile_model=False
        )


def test_exporting_a_run_that_never_ran_is_a_clear_error(settings: ScratchConfig, tmp_path: Path) -> None:
    save_settings(settings, tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="no training state"):
        export_run(tmp_path, tmp_path / "codec")


def test_the_rates_warm_up_hold_and_fall_to_nothing() -> None:
    config = ScratchConfig(steps=1000, warmup_steps=100, decay_share=0.5)
    factors = [rate_factor(step, config) for step in range(1000)]
    assert factors[0] == 0.01
    assert factors[300] == 1.0
    assert factors[750] == pytest.approx(0.5)
    assert factors[-1] < 0.01


def test_a_kill_while_the_old_state_is_removed_is_gone_on_from(tmp_path: Path) -> None:
    model = build(SETTINGS)
    optimizer = SplitOptimizer(model, SETTINGS, 0, 1)
    for step in (1, 2):
        save_state(tmp_path, model, optimizer, step, 0)
    shutil.copytree(tmp_path / "state", tmp_path / "state.old")
    save_state(tmp_path, model, optimizer, 3, 0)
    assert load_state(tmp_path, model) == 3
    assert not (tmp_path / "state.old").exists()


def test_a_run_does_not_go_on_with_other_settings(
    settings: ScratchConfig, data: Path, tmp_path: Path
) -> None:
    train_from_scratch(replace(settings, steps=2), data, tmp_path / "run", compile_model=False)
    with pytest.raises(CheckpointError, match=r"\(muon_lr, held_out differ\)"):
        train_from_scratch(
            replace(settings, muon_lr=0.5, held_out=0.5), data, tmp_path / "run", compile_model=False
        )
    train_from_scratch(settings, data, tmp_path / "run", compile_model=False)
    assert len(losses(tmp_path / "run")) == settings.steps


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("levels", 5), ("refinement_steps", -2), ("densities", {16: 1.0}), ("muon_lr", float("nan")),
        ("tokens_per_latent", 12), ("checkpoint_every", 0), ("frames_per_step", 0), ("sources", {"a": 0.0}),
        ("sources", {"a": -1.0}), ("vocabulary", 100), ("vocabulary", 70_000), ("seed", -1), ("adamw_lr", -1.0),
        ("corruption", 5.0), ("quantize_levels", {5: 1.0}), ("quantize_dimensions", {4: 0}),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_refused_before_anything_runs(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=name):
        replace(ScratchConfig(), **{name: value})
