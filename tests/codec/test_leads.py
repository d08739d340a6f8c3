"""Leads that are only known to be large enough are exact where they matter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.largest import largest
from nextmem_agents.codec.leads import choices, leads, rivals
from tests.codec import tiny

TRUE = torch.arange(448)


@pytest.fixture(scope="module", params=[False, True], ids=["float32 weights", "weights in 8 bits"])
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextmem_agents.codec.backbone.GAINS_BY_BFLOAT16", True)
        yield Backbone(tiny.model().bfloat16().float() if request.param else tiny.model(), fuse=True)


def states(seed: int, scale: float) -> torch.Tensor:
    """One for each token, of which some lead and some do not."""
    return scale * torch.randn(len(TRUE), 64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 40.0, 1e4]))
def test_logits_in_bfloat16_are_as_near_as_they_say(backbone: Backbone, seed: int, scale: float) -> None:
    hidden = states(seed, scale)
    rough = backbone.rough_logits(hidden)
    assert rough is not None
    logits, error = rough
    assert logits.dtype == torch.bfloat16
    off = (logits.double() - backbone.logits(hidden).double()).abs().amax(-1)
    assert bool((off <= error).all())
    assert float(off.max()) > 0


def test_nor_where_every_rounding_goes_one_way(backbone: Backbone) -> None:
    just_above = torch.full((1, 64), 1 + 2.0**-8 + 2.0**-20)  # rounded up by half a unit
    weight = backbone.model.get_output_embeddings().weight
    hidden = torch.cat([just_above, just_above * weight[:40].sign(), just_above * weight[:40].sign() * 3])
    rough = backbone.rough_logits(hidden)
    assert rough is not None
    assert bool(((rough[0].float() - backbone.logits(hidden)).abs() <= rough[1][:, None]).all())


def test_nor_where_state_weight_and_logit_are_rounded_as_far_as_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nextmem_agents.codec.backbone.GAINS_BY_BFLOAT16", True)
    model = tiny.model()
    weight = model.get_output_embeddings().weight
    widest = []
    for value in (1 + 2.0**-8 + 2.0**-16, 1 + 2.0**-8 - 2.0**-16):  # rounded up, and down, by half a unit
        with torch.no_grad():
            weight.zero_()
            weight[5] = value
        made = Backbone(model, fuse=True)
        hidden = value * torch.ones(64, 64).tril()
        rough = made.rough_logits(hidden)
        assert rough is not None
        exact = hidden.double() @ weight.double().t()
        off = (rough[0].double() - exact).abs().amax(-1)
        # ‖h‖ ‖w‖ is what is bounded by; of these two only what is not zero counts.
        part = rough[1] * (hidden.count_nonzero(-1) / 64).sqrt()
        assert bool((off <= part).all())
        widest.append(float((off / part).max()))
    assert max(widest) > 0.9  # and the bound is no wider than need be


@pytest.mark.parametrize("enough", [-0.5, 0.0, 0.02, 1.0])
def test_leads_are_exact_below_what_is_enough_and_never_too_large(backbone: Backbone, enough: float) -> None:
    weight = backbone.model.get_output_embeddings().weight
    # From far behind to far ahead of the others.
    hidden = states(0, 0.3) + torch.linspace(-20, 60, len(TRUE))[:, None] * weight
    exact = leads(backbone, hidden, TRUE)
    found = leads(backbone, hidden, TRUE, enough)
    below = exact < enough
    assert 20 < int(below.sum()) < len(TRUE) - 20
    assert torch.allclose(found[below], exact[below], atol=1e-5)
    assert bool((found[~below] >= enough).all())
    assert bool((found <= exact + 1e-5).all())
    assert bool((found < exact - 1e-5).any())  # most are not computed


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 40.0, 1e4]),
    ahead=st.sampled_from([-30.0, 0.0, 0.5, 30.0]),
    rows=st.integers(1, len(TRUE)),
)
def test_what_is_chosen_has_the_largest_float32_logit(
    backbone: Backbone, seed: int, scale: float, ahead: float, rows: int
) -> None:
    weight = backbone.model.get_output_embeddings().weight
    # Above one token's direction, below it, where most logits are negative, and where all are nearly alike.
    hidden = (states(seed, scale) + ahead * weight)[:rows]
    logits = backbone.logits(hidden)
    chosen = choices(backbone, hidden)
    assert chosen.dtype == torch.int64
    own = logits.gather(1, chosen[:, None])[:, 0]
    assert torch.allclose(own, logits.amax(-1), rtol=1e-6, atol=1e-6)


def test_most_choices_take_no_float32_logits(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = backbone.model.get_output_embeddings().weight
    asked: list[int] = []
    inner = Backbone.logits
    monkeypatch.setattr(Backbone, "logits", lambda self, h: asked.append(len(h)) or inner(self, h))
    hidden = states(0, 0.3) + 60 * weight
    found = choices(backbone, hidden)
    assert sum(asked) < len(TRUE) / 4
    asked.clear()
    # All logits negative, which say nothing in bfloat16, or equal.
    choices(backbone, torch.zeros_like(hidden))
    assert asked == [len(TRUE)]
    monkeypatch.undo()
    assert torch.equal(found, backbone.logits(hidden).argmax(-1))


def test_the_rival_is_the_token_that_the_lead_is_over(backbone: Backbone) -> None:
    hidden = states(1, 1.0)
    logits = backbone.logits(hidden)
    found = rivals(backbone, hidden, TRUE)
    own, other = (logits.gather(1, each[:, None])[:, 0] for each in (TRUE, found))
    assert bool((found != TRUE).all())
    assert torch.allclose(own - other, leads(backbone, hidden, TRUE), atol=1e-5)


@pytest.mark.parametrize("size", [1, 64, 100, 640])
@pytest.mark.parametrize("rows", [0, 1, 2, 9])
def test_the_largest_is_torchs_and_the_first_of_several(rows: int, size: int) -> None:
    values = torch.randint(0, 30, (rows, size), generator=torch.Generator().manual_seed(size)).float()
    values[:, ::7] = float("-inf")
    best, place = largest(values)
    assert torch.equal(best, values.amax(-1))
    assert torch.equal(place, (values == best[:, None]).int().argmax(-1))


def test_a_processor_without_a_unit_for_bfloat16_multiplies_all_in_float32(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextmem_agents.codec.backbone.GAINS_BY_BFLOAT16", False)
    hidden = states(2, 1.0)
    assert backbone.rough_logits(hidden) is None
    assert torch.equal(leads(backbone, hidden, TRUE, enough=0.0), leads(backbone, hidden, TRUE))
