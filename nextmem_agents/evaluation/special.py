"""What prose has little of, kind by kind: names, numbers, dates, addresses, ids, code, other languages.

The pieces come from the generator that training uses, with another seed; half of them stand in sentences that
were written for this module, half by themselves. The sentences in other languages were written for it, too.
"""

from __future__ import annotations

import json
import random
from importlib import resources

from nextmem_agents.evaluation.texts import Domain
from nextmem_agents.training.synthetic import KINDS

SEED = 20_261_121
"""Not one of training's, which are its configuration's seed (by default 0) and those beside it."""

_CARRIERS: dict[str, tuple[str, ...]] = {
    "names": (
        "I met {} at the station, and {} came along later.",
        "Ask {} whether {} has the key to the shed.",
    ),
    "digits": (
        "The meter reads {} today, it was {} in spring.",
        "Dial {} and then {} when the line is free.",
    ),
    "numbers": (
        "It came to {} in all, where we had reckoned with {}.",
        "The first sample gave {}, the second {}.",
    ),
    "dates": ("Put it down for {}; if that fails, {} will do.", "The lease began on {} and ends on {}."),
    "addresses": ("The form is at {}, the map at {}.", "Send it to {} with a copy to {}."),
    "hex ids": (
        "The build that broke is {}, the last good one {}.",
        "Look for {} in the log, right after {}.",
    ),
    "code": ("This is the line that fails:\n{}", "Could you replace it by\n{}\nand run it again?"),
}


def special_domains(count: int = 64, seed: int = SEED) -> list[Domain]:
    """``count`` texts of each kind, and four sentences of each of sixteen languages.

    Examples:
        >>> names, *others = special_domains(2)
        >>> names.name, len(names.texts), [domain.name for domain in others][-1]
        ('names', 2, 'Korean')
    """
    domains = []
    for kind, carriers in _CARRIERS.items():
        r = random.Random(f"{seed} {kind}")  # noqa: S311 - text to measure, not a secret
        texts: dict[str, None] = {}
        while len(texts) < count:
            if len(texts) % 2:
                carrier = r.choice(carriers)
                text = carrier.format(*(KINDS[kind](r) for _ in range(carrier.count("{}"))))
            else:
                separator = "\n" if kind == "code" else ", "
                text = separator.join(KINDS[kind](r) for _ in range(r.randint(1, 2 if kind == "code" else 4)))
            texts[text] = None
        domains.append(Domain(kind, tuple(texts)))
    languages = json.loads((resources.files(__package__) / "languages.json").read_text(encoding="utf-8"))
    return [*domains, *(Domain(name, tuple(sentences)) for name, sentences in languages.items())]
