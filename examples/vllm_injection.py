"""Memories as latents into a vLLM server, over its OpenAI-compatible API.

    vllm serve BACKBONE --enable-prompt-embeds --served-model-name NAME
    python examples/vllm_injection.py http://127.0.0.1:8000/v1 [codec]

BACKBONE is the model that reads the codec's latents (its backbone with stage 1 merged), and NAME the name that this
program prints: it holds the codec's fingerprint, so that a server with other weights refuses the request. Only numbers
travel: 15 positions for 128 tokens of memory, in place of their text. ``ChatOpenAI(base_url=...)`` takes the same
messages.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
from langchain_core.messages import HumanMessage

from langchain_nextmem import memory_block
from langchain_nextmem.prompt_embeds import served_model_name, with_prompt_embeds
from nextmem_agents import NextMem

NOTES = [
    "I moved to Lisbon in May, into a flat above a bakery.",
    "Rufus has to see the vet on Friday at ten.",
]
QUESTION = "Where did I move?"


def main(base_url: str, codec: str = "mini-16") -> None:
    """Remember two notes, recall one, and let the server answer from its latents."""
    with NextMem.open(":memory:", codec=codec) as store:
        ann = store.scope("ann")
        ann.remember(NOTES, role="user")
        hit = ann.recall(QUESTION, k=1)[0]
        model = served_model_name(ann.codec)
        message = HumanMessage([memory_block([hit.id]), {"type": "text", "text": QUESTION}])
        # The shipped codecs put latents at positions that a server cannot give them: here they only show the way.
        aligned = ann.codec.config.positions == "aligned"
        (ready,) = with_prompt_embeds([message], ann, model=model, ignore_positions=aligned)
        request: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": ready.content}],
            "max_tokens": 64,
        }
        print(
            f"model: {model}\nmemory: {hit.n_latents} latents in place of {ann.codec.count_tokens(hit.text)} tokens"
        )
        response = httpx.post(f"{base_url}/chat/completions", json=request, timeout=120)
        response.raise_for_status()
        print(f"{QUESTION}\n  -> {response.json()['choices'][0]['message']['content']}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:3])
