"""The reconstruction table: every domain, length, density, number of levels and noise that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.reconstruction import Reconstruction, measure
from nextmem_agents.evaluation.texts import WHOLE, Domain

LENGTHS: tuple[int | str, ...] = (16, 32, 64, 128, WHOLE)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        domain: what the texts are.
        length: their tokens, or ``"whole"``.
        tokens_per_latent: None for a codec of a fixed number of latents.
        levels: values a quantised number can take; 16 is NF4.
        refinement_steps: the most gradient steps that latents took before they were stored.
        noise: σ in units of the latents' RMS.
        measured: the figures.
    """

    domain: str
    length: int | str
    tokens_per_latent: int | None
    levels: int
    refinement_steps: int
    noise: float
    measured: Reconstruction

    def cells(self) -> dict[str, object]:
        """Column names and values, flat, for a table or JSON; what was not measured is None."""
        m = self.measured
        nothing = dict.fromkeys(("repair_bytes", "payload_bytes", "payload_to_text", "literal"))
        return {
            "domain": self.domain,
            "length": self.length,
            "tokens_per_latent": self.tokens_per_latent,
            "levels": self.levels,
            "refinement_steps": self.refinement_steps,
            "noise": self.noise,
            "n": m.n,
            "tokens": m.tokens,
            "characters_per_latent": m.characters_per_latent,
            **dataclasses.asdict(m.quantised),
            **{f"{name}_unquantised": value for name, value in dataclasses.asdict(m.unquantised).items()},
            "text_bytes": m.text_bytes,
            "latent_bytes": m.latent_bytes,
            **(nothing if m.size is None else dataclasses.asdict(m.size)),
        }


@dataclass(frozen=True)
class Plan:
    """What is measured: the product of all that is listed.

    Attributes:
        domains: texts; those that cannot be cut are measured whole.
        lengths: numbers of tokens, or ``"whole"``.
        tokens_per_latent: densities that the codec was trained at; None is its own.
        levels: 2, 3, 4, 8, 16; None is the codec's own.
        noise: σ in units of the latents' RMS.
        limit: the most texts of a domain and length.
    """

    domains: Sequence[Domain]
    lengths: Sequence[int | str] = LENGTHS
    tokens_per_latent: Sequence[int | None] = (None,)
    levels: Sequence[int | None] = (None,)
    noise: Sequence[float] = (0.0,)
    limit: int = 64

    def __post_init__(self) -> None:
        wrong = [n for n in self.lengths if n != WHOLE and (isinstance(n, str) or n < 1)]
        if wrong:
            raise InvalidArgument(f"a length is a number of tokens or {WHOLE!r}, not {wrong[0]!r}")
        if any(not 0 <= sigma < float("inf") for sigma in self.noise):
            raise InvalidArgument(f"noise must be numbers from 0, not {self.noise}")

    @property
    def n_rows(self) -> int:
        """The most rows that can come of it: a length without texts has none."""
        lengths = sum(len(self.lengths_of(domain)) for domain in self.domains)
        return lengths * len(self.tokens_per_latent) * len(self.levels) * len(self.noise)

    def lengths_of(self, domain: Domain) -> Sequence[int | str]:
        """The lengths at which a domain is measured."""
        return self.lengths if domain.stretches else (WHOLE,)


def sweep(
    plan: Plan,
    load: Callable[[int | None, int | None], LatentCodec],
    done: Callable[[int], None] | None = None,
) -> Iterator[Row]:
    """Measure all that a plan lists, codec by codec.

    Args:
        plan: what.
        load: gives the codec at (tokens per latent, levels); called once for each pair, before anything is
            measured, so that a density which the codec lacks is refused at once.
        done: called with the number of rows that were measured or found to have no texts.

    Raises:
        InvalidArgument: a density or number of levels that the codec does not have, or a length beyond its
            ``max_tokens``.
    """
    codecs = [load(ratio, levels) for ratio in plan.tokens_per_latent for levels in plan.levels]
    for codec in codecs:
        too_long = [n for n in plan.lengths if not isinstance(n, str) and n > codec.max_tokens]
        if too_long:
            raise InvalidArgument(
                f"length {too_long[0]}: a chunk of codec {codec.config.name!r} has at most {codec.max_tokens} tokens"
            )
    for codec in codecs:
        for domain in plan.domains:
            for length in plan.lengths_of(domain):
                texts = domain.of(codec, length, plan.limit)
                for noise in plan.noise:
                    if texts:
                        of = codec.config
                        yield Row(
                            domain.name,
                            length,
                            of.tokens_per_latent,
                            of.levels,
                            of.refinement_steps,
                            noise,
                            measure(codec, texts, noise),
                        )
                    if done is not None:
                        done(1)
