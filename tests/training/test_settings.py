"""Settings come from JSON or YAML; what is wrong in them is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nextmem_agents import DataError
from nextmem_agents.training import settings
from nextmem_agents.training.language_model import LanguageModelConfig
from nextmem_agents.training.recipe import Recipe
from nextmem_agents.training.stage_1 import Stage1Config
from nextmem_agents.training.stage_2 import Stage2Config


@pytest.mark.parametrize("kind", [LanguageModelConfig, Stage1Config, Stage2Config])
def test_what_is_saved_is_what_is_loaded(kind: type, tmp_path: Path) -> None:
    changed = kind(steps=7, sources=("a", "b"), learning_rate=1e-3)
    settings.save(changed, tmp_path / "c.json")
    assert settings.load(kind, tmp_path / "c.json") == changed
    assert (
        settings.differences(changed, kind()) == ["steps", "learning_rate", "sources"]
        or kind is LanguageModelConfig
    )


@pytest.mark.parametrize(
    "path",
    [
        *(f"nextmem_agents/training/{name}.json" for name in ("mini", "mini-16", "mini-dense")),
        *(f"benchmarks/densities/{name}.json" for name in ("mini-4", "mini-32", "mini-dense-16")),
    ],
)
def test_recipes_of_this_repository_are_valid(path: str) -> None:
    file = Path(__file__).parents[2] / path
    recipe = Recipe.load(file)
    assert recipe.codec.name == file.stem
    assert (
        (recipe.index_head is not None)
        == (recipe.span_reader is not None)
        == (file.stem in ("mini", "mini-16"))
    )


@pytest.mark.parametrize("name", ["mini", "mini-16", "mini-dense"])
def test_what_a_shipped_codec_says_of_itself_is_what_its_recipe_says(name: str) -> None:
    root = Path(__file__).parents[2] / "nextmem_agents"
    recipe = Recipe.load(root / "training" / f"{name}.json").codec
    shipped = json.loads((root / "checkpoints" / name / "nextmem.json").read_text())
    assert shipped["tokens_per_latent"] == recipe.tokens_per_latent
    assert shipped["refinement_steps"] == recipe.refinement_steps > 0
    assert (shipped["quantization_levels"] or 16) == recipe.levels


def test_yaml_is_as_good_as_json(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="YAML settings need pyyaml")
    (tmp_path / "c.yaml").write_text(
        "steps: 9\nlearning_rate: 1e-3\nlora_targets: [q_proj, v_proj]\nlatent_scale: null\nprogressive: false\n"
    )
    found = settings.load(Stage2Config, tmp_path / "c.yaml")
    assert found == Stage2Config(
        steps=9, learning_rate=1e-3, lora_targets=("q_proj", "v_proj"), latent_scale=None, progressive=False
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stesp": 3}, r"unknown setting 'stesp'; known are \['steps', 'batch_size'"),
        ({"stesp": 3, "x": 1}, "unknown settings 'stesp', 'x'"),
        ({"steps": "many"}, "'steps' must be of type int, not 'many'"),
        ({"steps": 1.5}, "'steps' must be of type int, not 1.5"),
        ({"steps": True}, "'steps' must be of type int, not True"),
        ({"progressive": 1}, "'progressive' must be of type bool"),
        ({"mixed_precision": "fp8"}, r"'mixed_precision' must be one of \['no', 'bf16'\]"),
        ({"sources": "all"}, "'sources' must be of type"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"fixed_latents": 15}, "exactly one of tokens_per_latent and fixed_latents"),
        ({"lora_targets": ["embed_tokens"]}, "lora_targets are some of"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ([], "a mapping of names to values, not list"),
    ],
)
def test_what_is_wrong_is_named(values: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        settings.load(Stage2Config, path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", "cannot be read"),
        ("c.yaml", "a: [", "cannot be read"),
        ("c.toml", "", "give a .json, .yaml or .yml"),
        ("none.json", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_settings(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("yaml", reason="YAML settings need pyyaml")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        settings.load(Stage1Config, tmp_path / name)


def test_numbers_as_keys_come_back_as_numbers() -> None:
    @dataclasses.dataclass(frozen=True)
    class Shares:
        shares: dict[int, float]

    # Annotations of a local class cannot be resolved by name alone.
    Shares.__annotations__["shares"] = dict[int, float]
    assert settings.parse(Shares, {"shares": {"8": 1}}).shares == {8: 1.0}
