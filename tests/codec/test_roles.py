from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.lora import LoraLinear
from nextmem_agents.codec.roles import Placement, pack_for_cpu
from nextmem_agents.errors import CheckpointError, InvalidArgument, MissingExtra
from tests.codec.conftest import Folders
from tests.codec.tiny import TEXTS

QUESTIONS = [f"What about {i}?" for i in range(len(TEXTS))]


def pointers(model: torch.nn.Module) -> dict[str, int]:
    """Storage of every tensor by its name in the plain model."""
    return {
        name.replace(".linear.", "."): tensor.data_ptr()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


def test_the_two_roles_share_every_weight(adapted: LatentCodec) -> None:
    decoder, encoder = pointers(adapted.decoder.model), pointers(adapted.encoder.model)
    assert {name: encoder[name] for name in decoder} == decoder
    assert all(name.endswith((".a", ".b")) for name in encoder.keys() - decoder.keys())
    assert len(encoder) == len(decoder) + 2 * 14


def test_only_the_encoder_has_the_second_adapter(adapted: LatentCodec) -> None:
    assert not any(isinstance(module, LoraLinear) for module in adapted.decoder.model.modules())
    assert sum(isinstance(module, LoraLinear) for module in adapted.encoder.model.modules()) == 14


def test_a_codec_without_adapters_has_one_model_for_both_roles(whole: LatentCodec) -> None:
    assert whole.encoder is whole.decoder


def test_threads_get_what_they_would_get_one_after_the_other(adapted: LatentCodec) -> None:
    latents = adapted.encode(TEXTS)
    tasks: list[Callable[[], object]] = [
        lambda: adapted.encode(TEXTS).values.tolist(),
        lambda: adapted.decode(latents, max_new_tokens=24),
        lambda: adapted.answer(latents, QUESTIONS, max_new_tokens=12),
    ] * 3
    expected = [task() for task in tasks[:3]] * 3
    found: list[object] = [None] * len(tasks)
    start = threading.Barrier(len(tasks))

    def work(i: int) -> None:
        start.wait()
        found[i] = tasks[i]()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_loading_leaves_the_backbones_files_alone(folders: Folders) -> None:
    def digests() -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folders[0].iterdir())]

    before = digests()
    codec = LatentCodec.load_official(*folders, dtype="bfloat16")
    codec.encode(TEXTS[:1])
    assert digests() == before


def test_a_codec_without_adapters_needs_neither_peft_nor_bitsandbytes(whole: LatentCodec) -> None:
    script = f"""
import sys
from nextmem_agents import LatentCodec
codec = LatentCodec.load({str(whole.folder)!r})
codec.decode(codec.encode(["Alice moved."]), max_new_tokens=2)
found = {{"peft", "bitsandbytes"}} & sys.modules.keys()
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_backbone_in_4_bits_encodes_decodes_and_answers(folders: Folders) -> None:
    pytest.importorskip("bitsandbytes")
    codec = LatentCodec.load_official(*folders, load_in_4bit=True)
    assert codec.profile == "nf4/cpu"
    weight = codec.decoder.model.model.layers[0].mlp.up_proj.linear.weight
    assert weight.dtype == torch.uint8
    shared = codec.encoder.model.model.layers[0].mlp.up_proj.linear.linear.weight
    assert shared is weight
    assert shared.quant_state is weight.quant_state

    latents = codec.encode(TEXTS)
    assert latents.values.isfinite().all()
    assert latents.values.shape == (len(TEXTS), 15, 64)
    assert len(codec.decode(latents, max_new_tokens=8)) == len(TEXTS)
    assert len(codec.answer(latents, QUESTIONS, max_new_tokens=8)) == len(TEXTS)
    # Four-bit weights are near the true ones, and both adapters are in.
    exact = LatentCodec.load_official(*folders).encode(TEXTS).values[:, 0]
    cosine = torch.nn.functional.cosine_similarity(latents.values[:, 0], exact, dim=-1)
    assert cosine.min() > 0.9
    with pytest.raises(InvalidArgument, match="stays where it was loaded"):
        codec.to("cpu")


@pytest.mark.parametrize(
    ("shape", "allowed", "expected"),
    [((128, 96), True, True), ((128, 96), False, False), ((96, 96), True, False), ((128, 48), True, False)],
)
def test_4_bit_weights_are_repacked_only_where_that_is_asked_for_and_possible(
    shape: tuple[int, int], allowed: bool, expected: bool
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(*shape), torch.nn.Linear(*shape))
    model[0].support_avx512bf16_for_cpu = True  # what bitsandbytes' own has on such a processor
    pack_for_cpu(model, allowed)
    assert model[0].support_avx512bf16_for_cpu == expected
    assert not hasattr(model[1], "support_avx512bf16_for_cpu")


def test_4_bits_without_bitsandbytes_names_the_extra(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"nextmem-agents\[bnb\]"):
        LatentCodec.load_official(*folders, load_in_4bit=True)


def test_attention_and_device_map_pass_through(
    whole: LatentCodec, adapted: LatentCodec, folders: Folders
) -> None:
    pytest.importorskip("accelerate")
    eager = LatentCodec.load(whole.folder or "", attn_implementation="eager")
    assert eager.decoder.model.config._attn_implementation == "eager"
    assert torch.allclose(eager.encode(TEXTS).values, whole.encode(TEXTS).values, atol=1e-4)
    mapped = LatentCodec.load_official(*folders, device_map={"": "cpu"})
    # Not bit by bit: what accelerate's hooks run differs in the last digits from one version to the next.
    assert torch.allclose(mapped.encode(TEXTS).values, adapted.encode(TEXTS).values, atol=1e-4)


def test_moving_keeps_the_roles_on_one_set_of_weights(folders: Folders) -> None:
    codec = LatentCodec.load_official(*folders)
    assert codec.to("cpu") is codec
    decoder, encoder = pointers(codec.decoder.model), pointers(codec.encoder.model)
    assert {name: encoder[name] for name in decoder} == decoder


@pytest.mark.parametrize("dtype", ["int8", "nonsense", torch.int64, 3])
def test_a_type_that_no_model_can_have_is_refused(whole: LatentCodec, dtype: object) -> None:
    with pytest.raises(InvalidArgument, match="no floating-point type"):
        LatentCodec.load(whole.folder or "", dtype=dtype)  # type: ignore[arg-type]


def test_an_impossible_device_is_refused(whole: LatentCodec) -> None:
    with pytest.raises(InvalidArgument, match="device 'nowhere'"):
        LatentCodec.load(whole.folder or "", device="nowhere")


def test_both_spellings_of_rope_are_read(whole: LatentCodec, tmp_path: Path) -> None:
    """transformers 4 would take a folder that 5 wrote for one with the default base."""
    assert whole.folder is not None
    found = []
    for i, spelling in enumerate(({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 1e6}})):
        folder = tmp_path / str(i)
        shutil.copytree(whole.folder, folder)
        settings = json.loads((folder / "config.json").read_text())
        for key in ("rope_theta", "rope_scaling", "rope_parameters"):
            settings.pop(key, None)
        (folder / "config.json").write_text(json.dumps(settings | spelling))
        config = dataclasses.replace(whole.config, fingerprint=checkpoint.fingerprint(folder, whole.config))
        config.save(folder)
        found.append(LatentCodec.load(folder))
    assert found[0].fingerprint == found[1].fingerprint != whole.fingerprint
    values = [codec.encode(TEXTS).values for codec in (*found, whole)]
    assert torch.equal(values[0], values[1])
    assert not torch.allclose(values[0], values[2], atol=1e-3)


def test_missing_tensors_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from nextmem_agents.codec.checkpoint import Parts
    from nextmem_agents.codec.roles import load_roles
    from tests.codec import tiny

    tiny.write_backbone(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing .* model\.layers\.1\.mlp\.up_proj"):
        load_roles(Parts(tmp_path, tiny.tokenizer_json()), Placement())
