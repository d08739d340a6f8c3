"""The plan: what goes in as text and what as latents, and what it costs, before anything is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import CannotAnswer, InvalidArgument, LatentCodec, NextMem, Scope
from nextmem_agents.codec.injection import READER
from nextmem_agents.recall.budget import TokenCounter
from nextmem_agents.recall.policy import MIN_FIDELITY, TEXT_SHARE, Mode, Plan, answers_unasked, make_plan
from nextmem_agents.recall.rendering import render

WORDS = TokenCounter("words", lambda text: len(text.split()))


@dataclass(frozen=True)
class Note:
    """As much of a memory as a plan looks at."""

    text: str
    fidelity: float | None = 1.0
    id: str = "note"
    role: str | None = "user"
    occurred_at: datetime | None = None
    own: bool = True

    def is_of(self, codec: object) -> bool:
        return self.own

    def positions(self, codec: object) -> int:
        return max(1, len(self.text.split()) // 4)


@dataclass
class Chat:
    """As much of an adapter's model as a plan looks at."""

    codec: LatentCodec
    min_fidelity: float = 0.5


def with_layout(codec: LatentCodec, layout: Any, unasked: bool | None = None) -> LatentCodec:
    """The same codec, taken for one that was trained to answer."""
    config = replace(codec.config, answer_layout=layout, answers_unasked=unasked)
    return LatentCodec(config, codec.parts)


@pytest.fixture(scope="module")
def answering(codec: LatentCodec) -> LatentCodec:
    return with_layout(codec, "released")


@pytest.fixture(scope="module")
def reading(codec: LatentCodec) -> LatentCodec:
    return with_layout(codec, READER)


def plan(notes: Sequence[Note], **settings: Any) -> Plan:
    return make_plan(notes, WORDS, **settings)  # type: ignore[arg-type]


def modes(plan: Plan) -> list[str]:
    return [each.mode for each in plan.memories]


def test_a_model_that_reads_text_gets_text(codec: LatentCodec) -> None:
    notes = [Note("one two"), Note("three")]
    for model in (
        None,
        "gpt-4o",
        object(),
        LatentCodec(codec.config, replace(codec.parts, span_reader=None)),
    ):
        found = plan(notes, model=model)
        assert modes(found) == ["decompress", "decompress"]
        assert found.render() == render(notes, WORDS)
        assert found.memories[0].why == "the model does not read these latents"


def test_the_codecs_own_backbone_gets_latents_where_they_carry_the_text(answering: LatentCodec) -> None:
    notes = [
        Note("good"),
        Note("bad", MIN_FIDELITY - 0.01),
        Note("literal", None),
        Note("edge", MIN_FIDELITY),
    ]
    found = plan(notes, model=answering)
    assert modes(found) == ["inject", "decompress", "decompress", "inject"]
    assert [each.why.split(":")[0] for each in found.memories] == [
        "its latents carry it", "its latents do not carry it", "kept literally, without latents",
        "its latents carry it",
    ]  # fmt: skip
    assert found.took == "mixed"
    assert [note.id for note in found.of("inject")] == ["note", "note"]
    assert "> bad" in found.render()
    assert "> good" not in found.render()


def test_an_adapters_model_is_known_by_its_codec_and_has_a_fidelity_of_its_own(
    answering: LatentCodec,
) -> None:
    assert modes(plan([Note("bad", 0.6)], model=Chat(answering))) == ["inject"]


def test_a_span_reader_gets_text_that_fits_unless_asked(codec: LatentCodec) -> None:
    notes = [Note("one two three four"), Note("five six seven"), Note("eight")]
    given = plan(notes, model=codec, max_tokens=codec.count_tokens("one two three four") + 2)
    assert modes(given) == ["decompress", "leave", "decompress"]
    assert "text better than latents" in given.memories[0].why
    assert given.bare
    assert modes(plan(notes, model=codec, mode="inject")) == ["inject"] * 3


def test_a_span_reader_that_answers_unasked_marks_the_answer_in_text(codec: LatentCodec) -> None:
    with NextMem.open(":memory:", codec=with_layout(codec, None, unasked=True)) as memory:
        scope = memory.scope("ann")
        scope.remember(["Ann keeps the spare key under the blue pot.", "Her train to Faro leaves at nine."])
        answer = scope.answer("Where does Ann keep the spare key?")
    assert (answer.reader, answer.mode) == ("codec", "decompress")
    assert "pot" in answer.text


def test_latents_of_another_codec_go_in_as_text_or_not_at_all(answering: LatentCodec) -> None:
    notes = [Note("one"), Note("foreign", own=False)]
    assert modes(plan(notes, model=answering)) == ["decompress", "decompress"]
    for mode in ("inject", "mixed"):
        with pytest.raises(CannotAnswer, match="own backbone"):
            plan(notes, model=answering, mode=mode)
        with pytest.raises(CannotAnswer, match="own backbone"):
            plan([Note("one")], model=None, mode=mode)


def test_inject_is_latents_alone_whatever_they_carry(answering: LatentCodec) -> None:
    found = plan([Note("bad", 0.0), Note("literal", None)], model=answering, mode="inject")
    assert modes(found) == ["inject", "inject"]
    assert (found.took, found.text_tokens, found.render()) == ("inject", 0, "")


def test_mixed_gives_the_best_half_as_text_and_the_others_as_latents(answering: LatentCodec) -> None:
    for n, expected in [(1, 1), (2, 1), (3, 2), (5, 3)]:
        found = plan([Note(f"note {i}") for i in range(n)], model=answering, mode="mixed")
        assert modes(found) == ["decompress"] * expected + ["inject"] * (n - expected)
    long = [Note("word " * 60), Note("short one")]
    assert modes(plan(long, model=answering, mode="mixed", max_tokens=100)) == ["inject", "inject"]


def test_what_fits_neither_as_text_nor_as_latents_is_left_and_says_why(answering: LatentCodec) -> None:
    notes = [Note("word " * 400), Note("literal " * 400, None), Note("short")]
    found = plan(notes, model=answering, max_tokens=20)
    assert modes(found) == ["leave", "leave", "inject"]
    assert found.memories[0].why == "does not fit the budget"
    assert found.memories[1].why == "kept literally, without latents; no room"


notes_of = st.lists(
    st.builds(Note, st.text("ab \n", min_size=1, max_size=200), st.none() | st.floats(0, 1)), max_size=6
)
budgets = st.none() | st.integers(0, 120)


@settings(deadline=None)
@given(notes=notes_of, budget=budgets, mode=st.sampled_from(["auto", "decompress", "inject", "mixed"]))
def test_the_budget_never_overflows_and_the_totals_are_those_of_what_goes_in(
    codec: LatentCodec, answering: LatentCodec, notes: list[Note], budget: int | None, mode: Mode
) -> None:
    found = plan(notes, model=answering, mode=mode, max_tokens=budget)
    count = found.counter
    assert found.text_tokens == count(found.render()) or not notes
    assert found.latent_positions == sum(note.positions(codec) for note in found.of("inject"))  # type: ignore[attr-defined]
    assert found.tokens == sum(each.tokens for each in found.memories)
    assert len(found.memories) == len(notes)
    if budget is not None:
        assert found.tokens <= budget
    if budget is not None and mode == "mixed":
        best = found.memories[: -(-len(notes) // 2)]
        asked = sum(each.tokens for each in best if each.why == "among the best evidence")
        assert asked <= budget * TEXT_SHARE
    if mode == "inject":
        assert "decompress" not in modes(found)
    assert str(found).count("\n") == len(notes)


@settings(deadline=None)
@given(notes=notes_of, budget=budgets)
def test_text_alone_is_byte_for_byte_what_a_text_memory_renders(
    notes: list[Note], budget: int | None
) -> None:
    found = plan(notes, mode="decompress", max_tokens=budget)
    assert found.render() == render(notes, WORDS, budget)
    assert found.tokens == found.text_tokens == WORDS(found.render())


@settings(deadline=None, max_examples=50)
@given(
    notes=st.lists(st.builds(Note, st.text(min_size=1, max_size=80)), max_size=4), budget=st.integers(0, 160)
)
def test_a_real_tokenizer_counts_the_block_as_the_plan_says(
    codec: LatentCodec, notes: list[Note], budget: int
) -> None:
    # Tokens of a longer text are no sum of those of its parts; the whole is what is counted.
    found = make_plan(notes, TokenCounter("codec", codec.count_tokens), max_tokens=budget)  # type: ignore[arg-type]
    assert codec.count_tokens(found.render()) == found.tokens <= budget


def test_a_trained_reader_is_given_bare_texts_and_counted_so(
    codec: LatentCodec, reading: LatentCodec
) -> None:
    notes = [Note("She moved to Lisbon."), Note("He likes tea.")]
    found = plan(notes, model=reading, mode="mixed")
    assert found.bare
    assert found.memories[0].tokens == codec.count_tokens("She moved to Lisbon.")
    assert "> She moved to Lisbon." in found.render()  # whoever else reads it gets it quoted


@pytest.mark.parametrize(
    "wrong", [{"mode": "both"}, {"max_tokens": -1}, {"max_tokens": 1.5}, {"max_tokens": True}]
)
def test_a_wrong_argument_is_one_clear_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        plan([Note("one")], **wrong)


def test_a_trained_reader_answers_unasked_only_if_its_codec_says_so(codec: LatentCodec) -> None:
    assert not answers_unasked(codec)
    assert answers_unasked(with_layout(codec, "released"))
    assert not answers_unasked(with_layout(codec, "released", unasked=False))
    assert not answers_unasked(with_layout(codec, READER))
    assert answers_unasked(with_layout(codec, READER, unasked=True))


@pytest.fixture
def ann(reading: LatentCodec) -> Any:
    with NextMem.open(":memory:", codec=reading) as memory:
        scope = memory.scope("ann")
        scope.remember(["She moved to Lisbon.", "He likes tea.", "Lisbon is far away."])
        yield scope


def test_hits_plan_themselves_for_real(ann: Scope) -> None:
    hits = ann.recall("Lisbon", k=3)
    found = hits.plan(model=ann.codec, max_tokens=100)
    by_text = {each.memory.text: each for each in found.memories}
    moved = by_text["She moved to Lisbon."]
    assert (moved.mode, moved.tokens) == (
        "inject",
        ann.codec.config.latents_for(ann.codec.count_tokens(moved.memory.text)),
    )
    assert set(modes(hits.plan(model=Chat(ann.codec, 2.0)))) == {"decompress"}  # no latents carry that much
    rows = found.latents(ann.codec)
    assert [len(row.values[0]) for row in rows] == [
        each.tokens for each in found.memories if each.mode == "inject"
    ]
    assert hits.plan(max_tokens=60).render() == hits.as_prompt(60)
    assert hits.plan(model="gpt-4o").counter.source.startswith(("tiktoken:", "codec:"))


def test_a_reader_answers_from_latents_from_text_and_from_both(ann: Scope) -> None:
    question = "Where did she move?"
    assert ann.answer(question).reader == "extract"  # a small codec's reader waits to be asked
    for mode in ("inject", "mixed"):
        answer = ann.answer(question, mode=mode, k=3)  # type: ignore[arg-type]
        assert (answer.mode, answer.reader) == (mode, "codec")
        assert answer.plan is not None
        assert answer.context_tokens == answer.plan.tokens
    with pytest.raises(CannotAnswer):
        ann.answer(question, mode="mixed", model=lambda prompt: "Lisbon")


def test_latents_and_text_stand_in_a_readers_prompt_in_their_order(
    ann: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = []

    def injected(backbone: Any, config: Any, given: Any, *, steps: Any) -> list[list[int]]:
        prompts.extend(given)
        return [[] for _ in given]

    monkeypatch.setattr("nextmem_agents.codec.answering.inject_batch", injected)
    answer = ann.answer("Where is Lisbon?", mode="mixed", k=2)
    assert answer.plan is not None
    first, second = (each.memory for each in answer.plan.memories)
    text, latents, question, end = prompts[0]
    assert text == ann.codec.tokenizer.encode([first.text])[0]
    assert (latents == second.latents(ann.codec).values[0]).all()
    assert question == ann.codec.tokenizer.encode(["Where is Lisbon?"])[0]
    assert end == [ann.codec.config.start_of_decode]


def test_in_the_released_layout_quoted_text_stands_before_the_question(
    ann: Scope, answering: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ann, "codec", answering)
    monkeypatch.setattr(
        answering, "answer", lambda latents, questions, n: asked.append((latents, questions)) or ["x"]
    )
    answer = ann.answer("Where is Lisbon?", mode="mixed", k=2)
    (latents, (question,)), plan = asked[0], answer.plan
    assert plan is not None
    assert question == f"{plan.render()}\n\nWhere is Lisbon?"
    assert int(latents.lengths[0]) == plan.latent_positions > 0


def test_whether_a_reader_answers_unasked_changes_no_fingerprint(codec: LatentCodec) -> None:
    from nextmem_agents.codec.fingerprint import digest

    asked = replace(codec.config, answers_unasked=True)
    assert digest(asked, codec.parts) == digest(codec.config, codec.parts)
