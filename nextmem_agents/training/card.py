"""The model card of a trained codec: what it is, how much comes back, and the settings that made it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from nextmem_agents.evaluation.reconstruction import Reconstruction

CARD_FILE = "README.md"


def model_card(
    name: str,
    about: str,
    found: Reconstruction | None,
    parts: Mapping[str, Any],
    base_model: str | None = None,
) -> str:
    """The text of a codec's ``README.md``.

    Args:
        name: the codec's.
        about: what it is, a sentence or more.
        found: how well held-out texts come back; None if none were measured.
        parts: what was trained → its settings, a dataclass.
        base_model: what the adapters were trained on, if it has any.
    """
    settings = "\n\n".join(
        f"## {title}\n\n```json\n{json.dumps(dataclasses.asdict(part), indent=1)}\n```"
        for title, part in parts.items()
    )
    tags = "nextmem, latent-memory" if base_model is None else "nextmem, latent-memory, lora"
    base = "" if base_model is None else f"\nbase_model: {base_model}"
    return f"""---
library_name: nextmem-agents
tags: [{tags}]{base}
---

# {name}

{about}

```python
from nextmem_agents import LatentCodec
codec = LatentCodec.load("this folder")
codec.decode(codec.encode(["a text"]))
```

{_results(found)}

What is remembered through `NextMem` comes back exactly whatever these figures: wrong tokens are repaired.

{settings}
"""


def _results(found: Reconstruction | None) -> str:
    if found is None:
        return "No held-out text was measured (`evaluate_texts` or `held_out` is 0)."
    rows = [
        ("texts", found.n, ""),
        ("tokens per text", found.tokens, ""),
        ("characters per latent", found.characters_per_latent, ""),
        *(
            (field.name.replace("_", " "), getattr(found.quantised, field.name), value)
            for field in dataclasses.fields(found.unquantised)
            if (value := getattr(found.unquantised, field.name)) is not None
        ),
    ]
    figures = "\n".join(f"| {name} | {a:.4g} | {b if b == '' else format(b, '.4g')} |" for name, a, b in rows)
    return (
        "Free-running greedy decoding of held-out texts, without repair (`nextmem evaluate reconstruction` "
        f"measures any file so):\n\n| | as stored | as encoded |\n| --- | --- | --- |\n{figures}"
    )
