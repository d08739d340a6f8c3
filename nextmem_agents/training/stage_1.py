"""Stage 1, autoregressive reconstruction alignment: the backbone learns to repeat a text after [SoD].

    nextmem train stage-1 --backbone Qwen3-8B/ --data texts/ --output runs/1 --export stage_1/

``x [SoD] x``, the loss on the second x. What learns is a LoRA adapter on the backbone and what prompts add to
[SoD]'s embedding. With the adapter merged, the backbone is the codec's decoder.

A large backbone, which can do so much else, then reads latents that it never saw (the paper). A small one may have
to be taught: with ``latent_share``, some steps replace leading blocks of the first x by latents that the same model
makes, in both roles at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nextmem_agents.codec import checkpoint, special_tokens, tokens
from nextmem_agents.codec.config import CodecConfig, Positions
from nextmem_agents.codec.fingerprint import weight_files
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import CheckpointError, InvalidArgument
from nextmem_agents.training import loop, passages, run_state, settings
from nextmem_agents.training.adapters import LatentConfig, load_backbone, save_adapter, with_new_adapter
from nextmem_agents.training.corpus import START_OF_DECODE
from nextmem_agents.training.language_model import end_of_text
from nextmem_agents.training.loop import CORPUS
from nextmem_agents.training.run_state import writing
from nextmem_agents.training.substitution import Substitution

SETTINGS_FILE = "stage_1.json"
RELEASED_START = "<|start_of_document|>"


@dataclass(frozen=True)
class Stage1Config(LatentConfig):
    """Stage 1, besides what :class:`LatentConfig`, :class:`AdapterConfig` and :class:`LoopConfig` document.

    Attributes:
        max_tokens: the most tokens that a chunk of the codec may have.
        min_tokens: the fewest of a training text.
        positions: the codec's; ``"consecutive"`` as in the paper.
        like: [SoD] starts out as the embedding of this word (the mean, where it is several tokens).
        latent_share: share of the steps at which a random number of leading blocks is replaced by latents (paper: 0).
            How latents are made must then be as in stage 2; with 0 those settings have no effect here.
        start_of_decode: False leaves [SoD] out, to show what it is worth; such a run cannot become a codec.
    """

    steps: int = 3092
    max_tokens: int = 128
    min_tokens: int = 4
    positions: Positions = "consecutive"
    like: str = "repeat"
    latent_share: float = 0.0
    start_of_decode: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise InvalidArgument("min_tokens is from 1 to max_tokens")
        if not 0 <= self.latent_share <= 1:
            raise InvalidArgument("latent_share is a share from 0 to 1")


def train_stage_1(config: Stage1Config, backbone: Path, data: Path, run: Path) -> None:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Args:
        config: the settings.
        backbone: a folder as transformers has it, with its ``tokenizer.json``.
        data: a text file or a folder of them.
        run: the run's folder.

    Raises:
        DataError: a text file is missing, malformed or empty.
        CheckpointError: the backbone does not fit, ``run`` is of other settings, or it cannot be written.
    """
    process = loop.accelerator(config)
    if process.is_main_process:
        loop.claim(run, config, {"backbone": loop.digest_of(backbone)})
        prepare(config.sources, config.held_out, codec_tokenizer(backbone), data, run)
    process.wait_for_everyone()
    module, _ = build(config, backbone, run / CORPUS, process.device)
    drawn = passages.Passages(run / CORPUS)

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return [drawn.passage(rng, config.min_tokens, config.max_tokens) for _ in range(config.batch_size)]

    optimizer = torch.optim.AdamW(
        run_state.trained(module).values(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    loop.train(process, module, [optimizer], config, run, draw, "stage 1")


def codec_tokenizer(backbone: Path) -> str:
    """The text of the backbone's ``tokenizer.json``, with [SoD] added where it has none.

    Raises:
        CheckpointError: it has no readable tokenizer.
    """
    try:
        source = (backbone / tokens.FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{backbone} holds no readable {tokens.FILE}: give a backbone's folder ({error})"
        ) from error
    if CodecTokenizer.parse(source, str(backbone)).tokenizer.token_to_id(START_OF_DECODE) is not None:
        return source
    return tokens.with_added_tokens(source, [RELEASED_START])


def start_of_decode(tokenizer: CodecTokenizer) -> int:
    """The id of [SoD]: of the small language models' token, or of the released codec's."""
    found = tokenizer.tokenizer.token_to_id(START_OF_DECODE)
    return int(found) if found is not None else tokenizer.control(RELEASED_START)


def prepare(sources: tuple[str, ...], held_out: float, tokenizer_json: str, data: Path, run: Path) -> None:
    """Write a run's tokenizer and token arrays."""
    corpus = run / CORPUS
    with writing(corpus):
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / tokens.FILE).write_text(tokenizer_json, encoding="utf-8")
    passages.prepare(passages.find_texts(data, sources), corpus, CodecTokenizer.load(corpus), held_out)


def build(
    config: Stage1Config, backbone: Path, tokenizer_folder: Path, device: Any = "cpu"
) -> tuple[Substitution, Any]:
    """The module that learns, and PEFT's model in it."""
    tokenizer = CodecTokenizer.load(tokenizer_folder)
    start = start_of_decode(tokenizer)
    row = _like(backbone, tokenizer, config.like)
    special = SpecialTokens(torch.tensor([start]), row, torch.zeros_like(row))
    model = load_backbone(backbone, special, config, device)
    wrapped = with_new_adapter(model, config)
    addition = torch.zeros(row.shape[1], device=model.get_input_embeddings().weight.device)
    codec = CodecConfig(
        name="stage-1",
        start_of_decode=start,
        end_of_text=end_of_text(tokenizer.tokenizer),
        max_tokens=config.max_tokens,
        tokens_per_latent=config.tokens_per_latent,
        fixed_latents=config.fixed_latents,
        positions=config.positions,
        latent_scale=config.scale(model),
    )

    def blocks(step: int) -> int:
        rng = np.random.default_rng((config.seed, step))
        chosen = rng.random() < config.latent_share
        return int(rng.integers(1, codec.max_latents + 1)) if chosen else 0

    module = Substitution(
        model,
        model,
        codec,
        block_tokens=config.block,
        blocks=blocks,
        addition=nn.Parameter(addition) if config.start_of_decode else addition,
        corruption=config.corruption,
        latent_noise=config.latent_noise,
        start_of_decode=config.start_of_decode,
    )
    return module, wrapped


def export_stage_1(run: Path, backbone: Path, folder: Path) -> None:
    """Write the decoder's adapter (PEFT's format), the special tokens, the tokenizer and the settings.

    Raises:
        CheckpointError: the run has no state, or ``folder`` exists and is not empty or cannot be written.
    """
    config = settings.load(Stage1Config, run / loop.CONFIG_FILE)
    module, wrapped = build(config, backbone, run / CORPUS, loop.device())
    if run_state.load(run, module, device=loop.device()) == 0:
        raise CheckpointError(f"{run} holds no training state; train first")
    checkpoint.new_folder(folder)
    save_adapter(wrapped, folder)
    start = torch.tensor([module.config.start_of_decode])
    row = module.embed(start.to(module.device)).detach().cpu()
    with writing(folder):
        SpecialTokens(start, row, module.addition.detach().cpu()[None].to(row)).save(folder)
        (folder / tokens.FILE).write_text(
            (run / CORPUS / tokens.FILE).read_text(encoding="utf-8"), encoding="utf-8"
        )
        settings.save(config, folder / SETTINGS_FILE)


def read_stage_1(folder: Path) -> tuple[Stage1Config, SpecialTokens, str]:
    """Settings, special tokens and tokenizer of a stage-1 folder.

    Raises:
        CheckpointError: the folder is none, or incomplete.
    """
    missing = [
        name
        for name in (SETTINGS_FILE, special_tokens.FILE, tokens.FILE, "adapter_config.json")
        if not (folder / name).is_file()
    ]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: give the folder that `nextmem train stage-1 --export` wrote"
        )
    return (
        settings.load(Stage1Config, folder / SETTINGS_FILE),
        SpecialTokens.load(folder),
        (folder / tokens.FILE).read_text(encoding="utf-8"),
    )


def _like(backbone: Path, tokenizer: CodecTokenizer, word: str) -> torch.Tensor:
    """[1, D], the embedding that [SoD] starts from."""
    rows = tokenizer.encode([word])[0]
    if not rows:
        raise InvalidArgument("like must be a word")
    name = "model.embed_tokens.weight"
    for path in weight_files(backbone):
        try:
            with safe_open(path, framework="pt") as file:
                if name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    table = file.get_slice(name)
                    found = torch.cat([table[row : row + 1] for row in rows])
                    return found.float().mean(0, keepdim=True).to(found.dtype)
        except (OSError, SafetensorError, IndexError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    raise CheckpointError(f"the backbone in {backbone} has no {name}: it is not Qwen3")
