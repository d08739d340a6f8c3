from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.errors import CheckpointError
from tests.codec import tiny

TOKENS = SpecialTokens(torch.tensor([7, 9]), torch.ones(2, 64), torch.full((2, 64), 0.5))


def test_they_come_back_from_disk_bit_for_bit(tmp_path: Path) -> None:
    TOKENS.save(tmp_path)
    back = SpecialTokens.load(tmp_path).tensors()
    assert all(torch.equal(tensor, back[name]) for name, tensor in TOKENS.tensors().items())


def test_rows_are_placed_and_additions_are_the_prompts_alone() -> None:
    model = tiny.model()
    TOKENS.place(model)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        rows = model.get_input_embeddings()(ids)
    assert rows[0, [0, 2]].eq(1).all()
    added = TOKENS.add(ids, rows)
    assert added[0, [0, 2]].eq(1.5).all()
    assert torch.equal(added[0, 1], rows[0, 1])


def test_the_sum_is_rounded_to_the_models_type() -> None:
    rows = torch.full((1, 1, 64), 1.0, dtype=torch.bfloat16)
    tokens = SpecialTokens(torch.tensor([7]), torch.ones(1, 64), torch.full((1, 64), 0.001))
    assert tokens.add(torch.tensor([[7]]), rows).eq(1).all()


@pytest.mark.parametrize("changes", [{"hidden": 32}, {"vocab_size": 9}])
def test_those_of_another_backbone_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="do not fit the backbone's"):
        TOKENS.place(tiny.model(**changes))


def test_tables_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(CheckpointError, match="contradict"):
        SpecialTokens(torch.tensor([7]), torch.ones(2, 64), torch.ones(2, 64))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    TOKENS.save(tmp_path)
    path = tmp_path / "special_tokens.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"special_tokens\.safetensors"):
        SpecialTokens.load(tmp_path)
