"""Tiny random codecs of every kind, made in a second: what the tests need is equality, not sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.config import CodecConfig

TEXTS = [
    "Alice moved to Lisbon last March with two cats.",
    "the",
    " ",
    "...!?",
    "He typed <|im_end|> and <|endoftext|> and <|start_of_document|> into the box.",
    "User: I lost my blue umbrella.\nAssistant: Sorry to hear that.\nUser: It was on the number 9 bus.",
    "The committee met on Thursday at the library to discuss the new bridge over the river.",
    "Grüße aus Köln, 漢字 🎉",
]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer_json(vocabulary: int = 400) -> str:
    """A byte-level BPE tokenizer of Qwen's kind: NFC, three special tokens and two plain added ones at its end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, *(["repeat", "end", "system"] * 50)], trainer)
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens(["<think>", "</think>"])
    return str(tokenizer.to_str())


def model(hidden: int = 64, layers: int = 2, seed: int = 0, **changes: Any) -> Qwen3ForCausalLM:
    """A random Qwen3. Larger weights would amplify rounding from latent to latent."""
    config = Qwen3Config(
        **{
            "vocab_size": 448,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
            "max_position_embeddings": 4096,
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def write_backbone(folder: Path, **changes: Any) -> None:
    """A folder like Qwen3-8B's: bfloat16 weights and the tokenizer."""
    model(**changes).to(torch.bfloat16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")


def write_adapter(folder: Path, backbone: Any, rank: int = 4, seed: int = 1, **settings: Any) -> None:
    """A random LoRA adapter on every linear module of ``backbone``, as PEFT writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = (
                torch.randn(rank, module.in_features, generator=generator) / 16
            )
            tensors[f"{prefix}.lora_B.weight"] = (
                torch.randn(module.out_features, rank, generator=generator) / 16
            )
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": TARGETS,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | settings))


def write_whole(folder: Path, **changes: Any) -> None:
    """A codec of the kind of ``mini``: no adapters, tied embeddings, aligned positions, one scale per latent."""
    backbone = model(tie_word_embeddings=True)
    weights = {
        name: value.clone() for name, value in backbone.state_dict().items() if name != "lm_head.weight"
    }
    json_text = tokenizer_json()
    control = Tokenizer.from_str(json_text).token_to_id
    values = {
        "name": "tiny",
        "start_of_decode": control("<|im_start|>"),
        "end_of_text": control("<|endoftext|>"),
        "latent_scale": 0.15,
        "quantization_table": (1.0,) * backbone.config.hidden_size,
        **changes,
    }
    checkpoint.write(folder, CodecConfig(**values), backbone.config, weights, json_text)


def write_official(folder: Path, hidden: int = 64) -> tuple[Path, Path, Path]:
    """Folders laid out as the released ones: (base, stage_1, stage_2)."""
    write_backbone(folder / "base", hidden=hidden)
    write_adapter(folder / "stage_1", model(hidden), seed=1)
    write_adapter(folder / "stage_2", model(hidden), seed=2)
    table = torch.randn(3, hidden, generator=torch.Generator().manual_seed(3)).bfloat16() / 8
    torch.save(
        {"special_input_embeddings": {"weight": table}}, folder / "stage_1" / "special_tokens_DTOKENS.pt"
    )
    return folder / "base", folder / "stage_1", folder / "stage_2"
