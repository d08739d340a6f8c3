"""The figures mean what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec.exact import compress
from nextmem_agents.errors import DataError, InvalidArgument, TextTooLong
from nextmem_agents.evaluation.reconstruction import measure
from nextmem_agents.evaluation.sweep import Plan, sweep
from nextmem_agents.evaluation.texts import Domain
from tests.codec import tiny

TEXTS = ["I adopted a parrot called Kiwi.", "The harbour froze in 1911, and thawed in May.", "Yes!"]


@pytest.fixture(scope="module")
def random_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that remember nothing."""
    folder = tmp_path_factory.mktemp("random")
    tiny.write_whole(folder, densities=(4, 8, 16))
    return folder


def test_a_trained_codec_gives_texts_back(codec: LatentCodec) -> None:
    found = measure(codec, TEXTS)
    assert found.quantised == found.unquantised
    assert (found.quantised.f1, found.quantised.exact, found.quantised.fidelity) == (1.0, 1.0, 1.0)
    assert found.n == 3
    assert found.tokens == sum(map(codec.count_tokens, TEXTS)) / 3
    ratio = codec.config.tokens_per_latent
    assert ratio is not None
    n_latents = sum(-(-codec.count_tokens(text) // ratio) for text in TEXTS)
    assert found.characters_per_latent == sum(map(len, TEXTS)) / n_latents
    assert found.latent_bytes == n_latents * (codec.dim // 2 + 1) / 3


def test_sizes_are_those_of_what_a_store_keeps(codec: LatentCodec) -> None:
    size = measure(codec, TEXTS).size
    assert size is not None
    kept = [len(chunks[0].payload.to_bytes(b"")) for chunks in compress(codec, TEXTS)]
    assert size.payload_bytes == sum(kept) / 3
    assert size.payload_to_text == sum(kept) / sum(len(text.encode()) for text in TEXTS)
    assert 0 <= size.repair_bytes < 2


def test_a_codec_that_remembers_nothing_scores_nothing(random_codec: Path) -> None:
    codec = LatentCodec.load(random_codec)
    found = measure(codec, TEXTS)
    assert found.quantised.exact == 0
    assert found.quantised.f1 < 0.2
    assert found.quantised.fidelity < 0.2
    # What cannot be repaired for less than it costs is kept as text: the share, and its cost, are shown.
    assert found.size is not None
    assert found.size.literal == 1
    assert found.size.payload_to_text > 1
    assert found.size.repair_bytes == 0


def test_noise_costs_more_the_larger_it_is(codec: LatentCodec) -> None:
    little, much = measure(codec, TEXTS[2:], noise=0.1), measure(codec, TEXTS[2:], noise=3.0)
    assert little.size is None
    assert little.quantised.f1 == 1
    assert much.quantised.fidelity < 0.7
    assert much == measure(codec, TEXTS[2:], noise=3.0)


def test_noise_is_in_units_of_each_texts_rms(codec: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    from nextmem_agents.evaluation import reconstruction

    latents = codec.encode(TEXTS)
    moved = reconstruction._disturbed(latents, 0.5, 0)
    for i, n in enumerate(latents.lengths.tolist()):
        before, after = latents.values[i, :n], moved.values[i, :n]
        assert (after - before).square().mean().sqrt() == pytest.approx(
            0.5 * before.square().mean().sqrt().item(), rel=0.15
        )
    assert torch.equal(reconstruction._disturbed(latents, 0.0, 0).values, latents.values)


def test_refusals(codec: LatentCodec) -> None:
    with pytest.raises(DataError, match="no text"):
        measure(codec, [])
    with pytest.raises(TextTooLong):
        measure(codec, ["word " * 400])
    with pytest.raises(InvalidArgument, match="noise"):
        measure(codec, TEXTS, noise=-0.1)


# -- sweeps


def test_a_sweep_measures_every_combination(random_codec: Path) -> None:
    cut, whole = Domain("cut", ("Yes!",), (TEXTS[1],)), Domain("as they are", ("No.",))
    plan = Plan([cut, whole], (9, "whole"), (4, 16), (3,), (0.0, 1.0), limit=1)
    loaded: list[tuple[int | None, int | None]] = []

    def load(ratio: int | None, levels: int | None) -> LatentCodec:
        loaded.append((ratio, levels))
        return LatentCodec.load(random_codec, tokens_per_latent=ratio, levels=levels)

    counted: list[int] = []
    rows = list(sweep(plan, load, counted.append))
    assert loaded == [(4, 3), (16, 3)]
    assert len(rows) == sum(counted) == plan.n_rows == 2 * (2 + 1) * 2
    found = {(r.domain, r.length, r.tokens_per_latent, r.levels, r.noise) for r in rows}
    assert len(found) == len(rows)
    assert ("cut", 9, 16, 3, 1.0) in found
    assert {r.length for r in rows if r.domain == "as they are"} == {"whole"}
    for row in rows:
        if isinstance(row.length, int):
            assert row.measured.tokens == row.length
        assert (row.measured.size is None) == bool(row.noise)
        cells = row.cells()
        assert cells["f1"] == row.measured.quantised.f1
        assert list(cells) == list(rows[0].cells())


def test_a_length_without_texts_has_no_row_but_counts_as_done(random_codec: Path) -> None:
    plan = Plan([Domain("short", ("One.",), ("One.",))], (100, "whole"))
    counted: list[int] = []
    rows = list(sweep(plan, lambda *_: LatentCodec.load(random_codec), counted.append))
    assert [row.length for row in rows] == ["whole"]
    assert sum(counted) == plan.n_rows == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (0,)}, "a length is"),
        ({"lengths": ("all",)}, "a length is"),
        ({"noise": (-1.0,)}, "noise must be"),
        ({"noise": (float("nan"),)}, "noise must be"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Plan([], **changes)  # type: ignore[arg-type]


def test_what_the_codec_cannot_do_is_refused_before_anything_is_measured(random_codec: Path) -> None:
    domain = Domain("d", tuple(TEXTS), tuple(TEXTS))

    def load(ratio: int | None, levels: int | None) -> LatentCodec:
        return LatentCodec.load(random_codec, tokens_per_latent=ratio, levels=levels)

    with pytest.raises(InvalidArgument, match=r"length 129: a chunk .* at most 128"):
        next(sweep(Plan([domain], (16, 129)), load))
    with pytest.raises(InvalidArgument, match="not 32"):
        next(sweep(Plan([domain], tokens_per_latent=(8, 32)), load))
