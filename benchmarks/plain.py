"""The control of the speed benchmarks: a codec as one would write it with transformers alone.

One text at a time, eager attention. Encoding is the released loop: the whole model, logits included, over the whole
prefix, again for every latent (`batch_encode` of the released code asks for all hidden states and takes the last).
Decoding is transformers' ``generate``, greedy. Same weights, same tokenizer, same latents, same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextmem_agents import LatentCodec
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.checkpoint import check_architecture
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.latents import Latents


class PlainModel:
    """Encoder and decoder over one transformers model.

    Args:
        encoder: a Qwen3ForCausalLM; with side paths, if the codec has adapters.
        decoder: the same, or another view of its weights.
        config: the codec's.
    """

    def __init__(self, encoder: Any, decoder: Any, config: CodecConfig):
        self.encoder, self.decoder, self.config = encoder.eval(), decoder.eval(), config

    @torch.no_grad()
    def encode(self, ids: Sequence[int]) -> Tensor:
        """Latents [L, D] of one chunk of token ids."""
        config, model = self.config, self.encoder
        n, length = len(ids), config.latents_for(len(ids))
        ids = list(ids)
        if config.positions == "aligned" and config.tokens_per_latent:
            ids += [config.end_of_text] * (-n % config.tokens_per_latent)
            places = [
                *range(1, len(ids) + 1),
                *(config.tokens_per_latent * (j + 1) for j in range(length)),
            ]
        else:
            places = list(range(n + length))
        sequence = model.get_input_embeddings()(torch.tensor([[*ids, config.start_of_decode]]))
        latents = []
        for _ in range(length):
            size = sequence.shape[1]
            output = model(
                inputs_embeds=sequence,
                attention_mask=torch.ones(1, size, dtype=torch.int64),
                position_ids=torch.tensor([places[:size]]),
                use_cache=False,
                output_hidden_states=True,
            )
            latent = output.hidden_states[-1][:, -1:]
            latents.append(latent[0, 0])
            sequence = torch.cat([sequence, latent * config.latent_scale], 1)
        return torch.stack(latents).float()

    @torch.no_grad()
    def decode(self, latents: Tensor, steps: int) -> list[int]:
        """Greedy token ids of latents [L, D]."""
        config, model = self.config, self.decoder
        sod = model.get_input_embeddings()(torch.tensor([[config.start_of_decode]]))
        prompt = torch.cat([(latents[None] * config.latent_scale).to(sod.dtype), sod], 1)
        places = list(range(prompt.shape[1]))
        if config.positions == "aligned" and config.tokens_per_latent:
            places = [*(config.tokens_per_latent * j for j in range(len(latents))), 0]
        written = model.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(1, prompt.shape[1], dtype=torch.int64),
            position_ids=torch.tensor([places]),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            eos_token_id=config.end_of_text,
            pad_token_id=config.end_of_text,
        )
        return list(map(int, written[0]))


class PlainCodec(LatentCodec):
    """A codec whose texts are encoded by the control."""

    plain: PlainModel

    def encode_ids(self, ids: Sequence[Sequence[int]], *, max_tokens: int | None = None) -> Latents:  # noqa: ARG002
        """As in LatentCodec, one text after the other."""
        rows = [self.plain.encode(row) for row in ids]
        lengths = torch.tensor([len(row) for row in rows])
        return Latents(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, self.fingerprint)


def plain_codec(name: str = DEFAULT_CODEC, dtype: str = "float32") -> PlainCodec:
    """The control of a codec without adapters, loaded from its checkpoint's weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from nextmem_agents.codec.weights import portable

    codec = PlainCodec.load(name, dtype=dtype)
    assert codec.folder is not None  # noqa: S101 - narrows the type
    model = Qwen3ForCausalLM.from_pretrained(
        codec.folder,
        config=Qwen3Config(**portable(check_architecture(codec.folder))),
        dtype=dtype,
        attn_implementation="eager",
    )
    codec.plain = PlainModel(model, model, codec.config)
    return codec
