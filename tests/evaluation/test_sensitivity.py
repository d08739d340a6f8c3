"""Which latent holds which sentence, and the figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.errors import InvalidArgument, MissingExtra, TextTooLong
from nextmem_agents.evaluation import plots
from nextmem_agents.evaluation.reconstruction import Reconstruction, Scores
from nextmem_agents.evaluation.sensitivity import Sensitivity, swap_sensitivity
from nextmem_agents.evaluation.sweep import Row


def test_the_latents_of_a_trained_codec_are_ordered(codec: LatentCodec) -> None:
    found = swap_sensitivity(codec)
    n_latents = int(codec.encode(["x"]).lengths[0])
    assert n_latents == 1
    assert found.change.shape[0] == len(found.spans) == 8
    assert found.n_swaps > 40
    assert (found.change >= 0).all()
    # A swap moves the latents of its own sentence, and hardly any other.
    assert found.share_inside() > 0.6 > 2 * found.share_by_chance()
    peaks = found.change.argmax(1)
    assert (peaks[1:] >= peaks[:-1]).all()


def test_spans_are_where_the_tokens_are(codec: LatentCodec) -> None:
    found = swap_sensitivity(
        codec, [("I met {} men in the hall.", "123"), ("It was {} o'clock.", ("ten", *"4567"))]
    )
    first = codec.count_tokens("I met 1 men in the hall.")
    both = codec.count_tokens("I met 1 men in the hall. It was 4 o'clock.")
    ratio = codec.config.tokens_per_latent
    assert ratio is not None
    assert found.spans == ((0.0, first / ratio), (first / ratio, both / ratio))
    assert found.n_swaps == 2 + 3


def test_shares() -> None:
    change = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 2.0]])
    found = Sensitivity(change, ((0.0, 1.0), (1.5, 4.0)), 2)
    assert found.share_inside() == pytest.approx((3 / 4 + 1) / 2)
    assert found.share_by_chance() == pytest.approx((1 / 4 + 3 / 4) / 2)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "no sentence"),
        ([("No place.", ("a", "b"))], "needs {} once"),
        ([("Two {} places {}.", ("a", "b"))], "needs {} once"),
        ([("Only {}.", ("one", "one"))], "as many tokens"),
        ([("Only {}.", ("one", "extraordinarily"))], "as many tokens"),
    ],
)
def test_what_cannot_be_swapped_is_refused(
    codec: LatentCodec, sentences: list[tuple[str, tuple[str, ...]]], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        swap_sensitivity(codec, sentences)


def test_too_many_sentences_are_refused(codec: LatentCodec) -> None:
    with pytest.raises(TextTooLong):
        swap_sensitivity(codec, [("I met {} men in the hall of the old house.", "123")] * 30)


# -- figures


def rows() -> list[Row]:
    def row(length: int, ratio: int, levels: int, noise: float, f1: float) -> Row:
        scores = Scores(f1, f1, f1, f1)
        size = 256 * levels.bit_length() / ratio
        return Row(
            "d", length, ratio, levels, 0, noise, Reconstruction(4, 60, 250, 31, size, scores, scores, None)
        )

    return [
        row(n, ratio, levels, noise, 1 - noise - ratio / 100)
        for n in (16, 64)
        for ratio in (8, 16)
        for levels in (4, 16)
        for noise in (0.0, 0.1)
    ]


def test_each_figure_is_drawn_where_there_is_something_to_show(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = plots.plot_rows(rows(), tmp_path / "all")
    assert [path.name for path in written] == ["length.png", "noise.png", "rate-distortion.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    one = [row for row in rows() if row.noise == 0 and (row.tokens_per_latent, row.levels) == (8, 16)]
    assert [path.name for path in plots.plot_rows(one, tmp_path / "one")] == ["length.png"]
    assert plots.plot_rows(one[:1], tmp_path / "none") == []


def test_the_rate_distortion_curve_has_one_point_for_each_density() -> None:
    pytest.importorskip("matplotlib")
    axes = plots._rate_distortion(rows()).axes[0]
    curves = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines[:2]}
    assert set(curves) == {"d, 4 levels", "d, 16 levels"}
    # bytes of latents per byte of text, at 64 tokens and without noise
    assert curves["d, 16 levels"] == [
        [pytest.approx(256 * 5 / 16 / 250), 0.84],
        [pytest.approx(256 * 5 / 8 / 250), 0.92],
    ]


def test_the_heat_map(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = Sensitivity(torch.eye(3), ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0)), 3)
    path = plots.plot_heat_map(found, tmp_path / "new" / "map.png", "codec x")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(MissingExtra, match=r"nextmem-agents\[eval\]"):
        plots.plot_rows(rows(), tmp_path)
    assert list(tmp_path.iterdir()) == []
