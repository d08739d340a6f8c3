"""The whole recipe, as a person types it: language model, stage 1, stage 2, a codec that loads and decodes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("peft", reason="training needs peft")

from nextmem_agents import CheckpointError, DataError, LatentCodec, cli
from nextmem_agents.training import run_state, settings
from nextmem_agents.training.card import CARD_FILE
from nextmem_agents.training.facts import facts
from nextmem_agents.training.held_out import held_out_texts
from nextmem_agents.training.language_model import (
    LanguageModelConfig,
    export_language_model,
    train_language_model,
)
from nextmem_agents.training.recipe import Recipe
from nextmem_agents.training.stage_1 import Stage1Config
from tests.training.conftest import SETTINGS
from tests.training.lora import STAGE_1, STAGE_2, losses, write_texts

LANGUAGE_MODEL = LanguageModelConfig(
    steps=60,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=5,
    checkpoint_every=20,
    held_out=0.1,
    hidden_size=64,
    intermediate_size=96,
    layers=2,
    heads=2,
    key_value_heads=2,
    head_dim=32,
    vocabulary=300,
    window=48,
)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def test_the_whole_recipe(tmp_path: Path) -> None:
    data = write_texts(tmp_path / "data")
    settings.save(LANGUAGE_MODEL, tmp_path / "lm.json")
    stage_1 = replace(
        STAGE_1, steps=80, batch_size=8, learning_rate=1e-2, checkpoint_every=80, latent_share=0.3
    )
    stage_1 = replace(stage_1, tokens_per_latent=4, latent_scale=None)
    settings.save(stage_1, tmp_path / "1.json")
    settings.save(replace(STAGE_2, steps=10, checkpoint_every=10), tmp_path / "2.json")
    runs = tmp_path / "runs"

    printed = run(
        "train", "language-model", "--data", data, "--output", runs / "lm", "--config", tmp_path / "lm.json",
        "--export", runs / "backbone", "--json",
    )  # fmt: skip
    report = json.loads(printed.splitlines()[-1])
    assert report["export"] == str(runs / "backbone")
    assert 0 < report["held_out_loss"] < 3
    assert report["last_step"]["step"] == LANGUAGE_MODEL.steps - 1
    found = losses(runs / "lm")
    # ln 300 = 5.7 nats to begin with; the texts are alike but for their numbers.
    assert found[0][1] > 5
    assert found[-1][1] < 2.5

    run(
        "train", "stage-1", "--backbone", runs / "backbone", "--data", data, "--output", runs / "1", "--config",
        tmp_path / "1.json", "--export", runs / "stage-1",
    )  # fmt: skip
    rows = [json.loads(line) for line in (runs / "1" / "log.jsonl").read_text().splitlines()]
    copied = [row for row in rows if row["blocks"] == 0]
    assert 0 < len(copied) < len(rows)
    assert copied[-1]["loss"] < 0.6 * copied[0]["loss"]

    printed = run(
        "train", "stage-2", "--backbone", runs / "backbone", "--stage-1", runs / "stage-1", "--data", data,
        "--output", runs / "2", "--config", tmp_path / "2.json", "--export", runs / "codec",
    )  # fmt: skip
    assert "held out f1 " in printed
    assert f"codec written to {runs / 'codec'}" in " ".join(printed.split("\n"))
    codec = LatentCodec.load(runs / "codec")
    texts = ["Fact 3: the harbour of town 3 has 9 boats.", "Fact 9: the harbour"]
    chunks = [codec.chunk(text)[0] for text in texts]
    latents = codec.encode(chunks)
    assert latents.lengths.tolist() == [-(-codec.count_tokens(chunk) // 4) for chunk in chunks]
    assert len(codec.decode(latents, max_new_tokens=30)) == 2


PARTS = {
    "index_head": {"batch_size": 16, "questions": {"asked": 1.0}, "pairs": 48, "width": 32, "named_tokens": 64,
                   "terms_per_latent": 4, "term_size": 16, "index_size": 16, "longest": 32, "sources": ["facts"]},
    "span_reader": {"batch_size": 8, "questions": {"asked": 1.0}, "examples": 32, "width": 16, "longest": 32},
}  # fmt: skip


@pytest.fixture
def asked(data: Path) -> Path:
    """Training texts, with questions."""
    rows = [{"context": f.statement, "question": f.question, "answers": [f.answer]} for f in facts(60, 1)]
    (data / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return data


def test_one_file_gives_a_codec_with_its_index_head_and_span_reader(asked: Path, tmp_path: Path) -> None:
    whole = dataclasses.asdict(SETTINGS) | {"refinement_steps": 2, "held_out": 0.1} | PARTS
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    arguments = ["train", "--data", asked, "--output", tmp_path / "run", "--config", tmp_path / "whole.json"]
    printed = run(*arguments, "--steps", 3, "--no-compile", "--export", tmp_path / "codec")
    assert "held out f1 " in printed
    assert "codec written to" in printed
    codec = LatentCodec.load(tmp_path / "codec")
    card = (tmp_path / "codec" / CARD_FILE).read_text(encoding="utf-8")
    assert "# tiny" in card
    assert "| fidelity | 0." in card
    assert card.index("## Codec") < card.index("## Index head") < card.index("## Span reader")
    kept = {text for text in held_out_texts(tmp_path / "run" / "corpus") if text.startswith("Fact")}
    with np.load(tmp_path / "run" / "corpus" / "facts.npz") as arrays:
        assert len(arrays["offsets"]) - 1 == 80 - len(kept) < 80
    assert codec.config.refinement_steps == 2
    assert codec.index_head is not None
    assert codec.index_head.term_size == 16
    assert codec.span_reader is not None
    logs = sorted((tmp_path / "run").rglob("log.jsonl"))
    assert [log.parent.name for log in logs] == ["index-head", "span-reader", "run"]
    assert [len(log.read_text().splitlines()) for log in logs] == [3, 3, 3]

    # Begun again it takes no step, and gives the same; a longer run is another codec, whose parts begin anew.
    run(*arguments, "--steps", 3, "--no-compile", "--export", tmp_path / "again")
    assert LatentCodec.load(tmp_path / "again").fingerprint == codec.fingerprint
    run(*arguments, "--steps", 4, "--no-compile", "--export", tmp_path / "longer")
    assert LatentCodec.load(tmp_path / "longer").fingerprint != codec.fingerprint
    assert len(sorted((tmp_path / "run").rglob("log.jsonl"))) == 5


def test_two_processes_train_the_codec_and_the_first_its_parts(asked: Path, tmp_path: Path) -> None:
    whole = dataclasses.asdict(SETTINGS) | {"steps": 2} | {
        name: {**part, "steps": 2} for name, part in PARTS.items()
    }  # fmt: skip
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
        "nextmem_agents.cli", "train", "--data", asked, "--output", tmp_path / "run", "--config",
        tmp_path / "whole.json", "--no-compile", "--export", tmp_path / "codec",
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert LatentCodec.load(tmp_path / "codec").span_reader is not None
    assert len(list((tmp_path / "run").glob("*/index-head/log.jsonl"))) == 1


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(asked: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    arguments = [
        "train",
        "--data",
        str(asked),
        "--output",
        str(tmp_path / "run"),
        "--export",
        str(tmp_path / "full"),
    ]
    with pytest.raises(CheckpointError, match="not empty"):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for text, message in (
        ('{"span_reader": {}}', "give index_head"),
        ('{"index_head": {"stesp": 1}}', r"c.json, index_head: unknown setting 'stesp'"),
        ('{"stesp": 1}', "unknown setting 'stesp'"),
        ("[]", "mapping of names"),
        ('{"index_head": 3}', "mapping of names"),
    ):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataError, match=message):
            Recipe.load(tmp_path / "c.json")


def test_a_language_model_resumes_and_exports_what_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    data = write_texts(tmp_path / "data")
    config = replace(LANGUAGE_MODEL, steps=4, checkpoint_every=2)
    train_language_model(config, data, tmp_path / "whole")
    original = run_state.save

    def stopped(run: Path, done: int, *rest: object) -> None:
        if done == 4:
            raise KeyboardInterrupt
        original(run, done, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(run_state, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_language_model(config, data, tmp_path / "killed")
    train_language_model(config, data, tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    export_language_model(tmp_path / "whole", tmp_path / "backbone")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
    assert model.config.model_type == "qwen3"
    assert model.config.tie_word_embeddings
    with pytest.raises(CheckpointError, match="not empty"):
        export_language_model(tmp_path / "whole", tmp_path / "backbone")


def test_the_shipped_tokenizer_may_serve(tmp_path: Path) -> None:
    data = write_texts(tmp_path / "data")
    config = replace(LANGUAGE_MODEL, steps=1, tokenizer_from="mini")
    loss = train_language_model(config, data, tmp_path / "run")
    assert loss is not None
    assert 0 < loss < 12
    with pytest.raises(DataError, match="holds no missing"):
        train_language_model(replace(config, sources=("missing",)), data, tmp_path / "other")


def test_the_command_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("stesp: 4\n")
    arguments = ["train", "stage-1", "--backbone", "b", "--data", "d", "--output", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", ["nextmem", *arguments, "--config", str(tmp_path / "bad.yaml")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert "unknown setting 'stesp'; known are" in printed
    assert "lora_rank" in printed
    for wrong in (["train", "--data", "d"], ["train", "--data", "d", "stage-1"]):
        assert CliRunner().invoke(cli.app, wrong).exit_code == 2


def test_stage_2_makes_the_latents_that_stage_1_learned_to_read(tmp_path: Path) -> None:
    from nextmem_agents.training import stage_2
    from tests.training.lora import write_backbone

    backbone, stage_1 = write_backbone(tmp_path / "backbone"), tmp_path / "stage-1"
    from nextmem_agents.training.stage_1 import export_stage_1, train_stage_1

    config = replace(STAGE_1, steps=1, latent_share=1.0, tokens_per_latent=4, latent_scale=None)
    assert isinstance(config, Stage1Config)
    train_stage_1(config, backbone, write_texts(tmp_path / "data"), tmp_path / "run")
    export_stage_1(tmp_path / "run", backbone, stage_1)
    stage_2.build(STAGE_2, backbone, stage_1)
    with pytest.raises(CheckpointError, match="other latents: give stage 2 its tokens_per_latent"):
        stage_2.build(replace(STAGE_2, tokens_per_latent=8), backbone, stage_1)
