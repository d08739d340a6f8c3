"""The life of a memory through the facade."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextmem_agents import (
    CannotAnswer,
    EmptyText,
    InvalidArgument,
    LatentCodec,
    MemoryNotFound,
    NextMem,
    Scope,
    StoreClosed,
)
from tests.codec import tiny


@pytest.fixture
def alice(memory: NextMem) -> Scope:
    return memory.scope("alice")


def test_a_memory_comes_back_with_all_that_was_said_of_it(alice: Scope) -> None:
    when = datetime(2025, 5, 3, 10, 30, tzinfo=timezone.utc)
    note = alice.remember(
        "She moved to Lisbon in May.",
        session="s1",
        agent="helper",
        role="user",
        occurred_at=when,
        metadata={"source": "chat", "turn": 3, "sure": True, "weight": 0.5},
    )
    hit = alice.recall("Where did she move?", k=1)[0]
    assert (hit.id, hit.text, hit.session, hit.agent, hit.role) == (
        note,
        "She moved to Lisbon in May.",
        "s1",
        "helper",
        "user",
    )
    assert hit.occurred_at == when
    assert hit.metadata == {"source": "chat", "turn": 3, "sure": True, "weight": 0.5}
    assert 0 < hit.score <= 1
    assert hit.fidelity == 1.0
    assert hit.n_latents == alice.codec.config.latents_for(alice.codec.count_tokens(hit.text))


def test_exact_is_unknown_until_the_text_was_decoded_and_one_read_decodes_all(alice: Scope) -> None:
    alice.remember(["A cat slept.", "A dog barked.", "A cow mooed."])
    hits = alice.recall("Which animal slept?", k=3)
    assert [hit.exact for hit in hits] == [None] * 3
    assert hits[0].text == "A cat slept."
    assert [hit.exact for hit in hits] == [True] * 3


def test_ids_are_given_back_in_order_and_a_single_text_gives_one_id(alice: Scope) -> None:
    assert isinstance(alice.remember("one"), str)
    ids = alice.remember(["two", "three"])
    assert [alice.get(id_).text for id_ in ids] == ["two", "three"]
    assert [memory.text for memory in alice.get(ids[::-1])] == ["three", "two"]
    assert alice.remember([]) == []


def test_the_same_id_replaces_and_without_an_id_each_call_is_a_new_memory(alice: Scope) -> None:
    alice.remember("Her cat is Tom.", id="cat")
    alice.remember("Her cat is Felix.", id="cat")
    alice.remember("yes")
    alice.remember("yes")
    assert alice.get("cat").text == "Her cat is Felix."
    assert sorted(memory.text for memory in alice.list()) == ["Her cat is Felix.", "yes", "yes"]


@dataclass
class Document:
    page_content: str
    metadata: dict[str, str]


@dataclass
class Message:
    content: str
    type: str


def test_messages_and_documents_bring_their_role_and_metadata(alice: Scope) -> None:
    ids = alice.remember(
        [
            {"role": "assistant", "content": "Hello!"},
            Message("Hi, I am Ann.", "human"),
            Document("A page.", {"source": "book"}),
        ],
        session="s",
        metadata={"lang": "en"},
    )
    first, second, third = alice.get(ids)
    assert (first.role, second.role, third.role) == ("assistant", "user", None)
    assert third.metadata == {"source": "book", "lang": "en"}


def test_one_value_for_all_or_a_list_of_the_same_length(alice: Scope) -> None:
    ids = alice.remember(["a", "b"], role=["ann", "bob"], session="s")
    assert [(m.role, m.session) for m in alice.get(ids)] == [("ann", "s"), ("bob", "s")]
    with pytest.raises(InvalidArgument, match="2 texts were given with 3 values of role"):
        alice.remember(["a", "b"], role=["x", "y", "z"])
    with pytest.raises(InvalidArgument, match="list of ids"):
        alice.remember(["a", "b"], id="one")


def test_the_right_memory_is_found_by_its_words(alice: Scope) -> None:
    alice.remember(["She moved to Lisbon in May.", "He likes strong coffee.", "The meeting is on Tuesday."])
    for question, start in [
        ("Where did she move?", "She"),
        ("coffee?", "He"),
        ("When do we meet on Tuesday?", "The"),
    ]:
        assert alice.recall(question, k=1)[0].text.startswith(start)


@pytest.mark.parametrize("ranking", ["hybrid", "latent", "lexical"])
def test_scores_fall_and_lie_between_0_and_1(alice: Scope, ranking: str) -> None:
    alice.remember(["red apples", "green apples and red pears", "blue plums", "an old red house"])
    scores = [hit.score for hit in alice.recall("red apples", k=4, ranking=ranking)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_latent_ranking_finds_a_text_by_itself(alice: Scope) -> None:
    texts = ["She moved to Lisbon in May.", "He likes strong coffee.", "The meeting is on Tuesday."]
    alice.remember(texts)
    for text in texts:
        assert alice.recall(text, k=1, ranking="latent")[0].text == text


@pytest.mark.parametrize(("word", "said_in"), [("car", 1), ("tree", 2), ("ferry", 3), ("engine", 1)])
def test_latents_find_a_bare_word_in_the_middle_of_what_was_said(
    alice: Scope, word: str, said_in: int
) -> None:
    texts = ["A red apple pie.", "A blue car engine.", "A green tree in a park.", "The ferry leaves at nine."]
    alice.remember(texts)
    assert alice.recall(word, k=1, ranking="latent")[0].text == texts[said_in]


def test_a_speakers_name_is_found(alice: Scope) -> None:
    alice.remember(["I went hiking.", "I went hiking."], role=["Caroline", "Melanie"])
    assert alice.recall("Did Melanie hike?", k=1)[0].role == "Melanie"


def test_the_turn_after_a_matching_one_is_found_too_within_its_session(alice: Scope) -> None:
    alice.remember(["What shall we eat tonight?", "Soup, I think."], session="s1")
    alice.remember(["I saw a film.", "It was long."], session="s2")
    hits = alice.recall("What did they eat tonight?", k=2)
    assert [hit.text for hit in hits] == ["What shall we eat tonight?", "Soup, I think."]
    assert hits[1].parts.lexical == 0
    assert hits[1].parts.context == hits[0].parts.lexical


def test_where_filters_before_ranking(alice: Scope) -> None:
    alice.remember(
        ["apples", "apples"], metadata=[{"year": 2020}, {"year": 2024}], role=["user", "assistant"]
    )
    assert [hit.metadata["year"] for hit in alice.recall("apples", where={"year": {"$gte": 2021}})] == [2024]
    assert [hit.role for hit in alice.recall("apples", where={"role": "user"})] == ["user"]


def test_a_sample_is_spread_over_the_whole_scope(alice: Scope, memory: NextMem) -> None:
    memory.scope("bob").remember("Not hers.")
    ids = alice.remember([f"Note {i}." for i in range(20)])
    alice.forget([ids[3]])
    sample = [item.id for item in alice.sample(5)]
    assert 3 <= len(sample) <= 5
    assert sample == sorted(sample, key=ids.index)
    assert sample[0] == ids[0]
    assert ids.index(sample[-1]) >= 14
    assert [item.id for item in alice.sample(100)] == [id_ for id_ in ids if id_ != ids[3]]
    assert memory.scope("nobody").sample(3) == []
    with pytest.raises(InvalidArgument):
        alice.sample(0)


def test_an_empty_scope_recalls_nothing_and_answers_nothing(alice: Scope) -> None:
    assert len(alice.recall("anything")) == 0
    assert alice.recall("anything").as_prompt() == ""
    assert alice.answer("anything?").text == ""


def test_forgetting_leaves_every_read_path_and_is_counted(alice: Scope) -> None:
    first, second, third = alice.remember(["keep me", "drop me", "drop me too"], role=["a", "b", "b"])
    assert alice.forget([second]) == 1
    assert alice.forget(where={"role": "b"}) == 1
    assert [memory.id for memory in alice.list()] == [first]
    assert [hit.id for hit in alice.recall("drop me too, or keep me", k=5)] == [first]
    with pytest.raises(MemoryNotFound, match=third):
        alice.get(third)
    with pytest.raises(MemoryNotFound):
        alice.forget([first, "unknown"])
    assert alice.count() == 1


def test_clear_empties_one_scope_only(memory: NextMem) -> None:
    memory.scope("alice").remember(["a", "b"])
    memory.scope("bob").remember("c")
    assert memory.scope("alice").clear() == 2
    assert memory.scope("alice").clear() == 0
    assert memory.scopes() == ["bob"]


def test_scopes_do_not_see_each_other(memory: NextMem) -> None:
    note = memory.scope("alice").remember("Alice's secret is 1234.")
    bob = memory.scope("bob")
    assert len(bob.recall("secret 1234")) == 0
    assert list(bob.list()) == []
    with pytest.raises(MemoryNotFound):
        bob.get(note)
    with pytest.raises(MemoryNotFound):
        bob.forget([note])
    assert memory.scope("alice").count() == 1


def test_long_texts_are_chunked_and_come_back_whole(alice: Scope) -> None:
    text = "\n".join(f"Line {i}: the {i}th item costs {i * 7} euros." for i in range(200))
    memory = alice.get(alice.remember(text))
    assert memory.text == text
    assert memory.record.n_chunks > 10


def test_answer_without_a_model_quotes_a_recalled_sentence(alice: Scope) -> None:
    alice.remember("We had a long talk. The password of the boat house is kestrel-44. Then it rained.")
    answer = alice.answer("What is the password of the boat house?")
    assert answer.text == "The password of the boat house is kestrel-44."
    assert (answer.mode, answer.reader) == ("decompress", "extract")
    assert str(answer) == answer.text


def test_answer_gives_a_model_the_quoted_memories_and_the_question(alice: Scope) -> None:
    alice.remember("She moved to Lisbon.", role="user")
    prompts: list[str] = []

    def model(prompt: str) -> str:
        prompts.append(prompt)
        return "Lisbon"

    answer = alice.answer("Where does she live?", model=model)
    assert answer.text == "Lisbon"
    assert answer.reader == "model"
    assert "> She moved to Lisbon." in prompts[0]
    assert prompts[0].endswith("Question: Where does she live?\nAnswer:")


def test_a_codec_that_can_answer_is_injected_with_the_latents(tmp_path: Path) -> None:
    codec = LatentCodec.load_official(*tiny.write_official(tmp_path))
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope("alice")
        # Decomposed letters do not survive Qwen's normaliser: this memory is kept literally.
        scope.remember(["She moved to Lisbon.", "Cafe\u0301 Lisbon"])
        answer = scope.answer("Where is Lisbon?", k=2, mode="inject")
        assert (answer.mode, answer.reader) == ("inject", "codec")
        assert answer.context_tokens == 30  # 15 latents for each memory, whatever its length
        # Latents of random weights carry nothing: unasked, the same reader gets the text.
        unasked = scope.answer("Where is Lisbon?", k=2)
        assert (unasked.mode, unasked.reader) == ("decompress", "codec")
        assert scope.answer("Where is Lisbon?", mode="decompress").reader == "extract"
        assert scope.answer("Where is Lisbon?", model=lambda prompt: "there").mode == "decompress"
        with pytest.raises(CannotAnswer, match="own backbone"):
            scope.answer("Where?", mode="inject", model=lambda prompt: "there")


def test_a_codec_that_cannot_answer_says_so() -> None:
    memory = NextMem.open(":memory:", codec="mini-dense")
    with memory, pytest.raises(CannotAnswer, match="not trained to answer"):
        memory.scope("alice").answer("Where?", mode="inject")


def test_mini_finds_an_answer_in_latents_and_in_text(alice: Scope) -> None:
    alice.remember(["Karvo moved to Lisbon in May.", "Belin is a surgeon.", "Old Tomas keeps goats."])
    for mode in ("inject", "mixed"):
        answer = alice.answer("Where did Karvo move?", mode=mode, k=2)
        assert (answer.text, answer.reader) == ("Lisbon", "codec")
    assert alice.codec.read([[]], ["Where did Karvo move?"]) == [""]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.recall("x", k=0), "k must be a whole number of at least 1, not 0"),
        (lambda s: s.recall("x", k=True), "k must be a whole number"),
        (lambda s: s.recall("x", k=2.0), "k must be a whole number"),
        (lambda s: s.recall("x", ranking="best"), "ranking must be"),
        (lambda s: s.recall(7), "a text must be a string, not int"),
        (lambda s: s.remember(7), "item 0 is a int; remember takes strings"),
        (lambda s: s.remember("a\ud800b"), "lone surrogate at character 1"),
        (lambda s: s.remember("x", metadata={"a": None}), "a"),
        (lambda s: s.remember("x", metadata={"role": "y"}), "role"),
        (lambda s: s.answer("x", mode="magic"), "mode must be"),
        (lambda s: s.forget(), "ids"),
        (lambda s: s.recall("x", where={"a": {"$regex": "b"}}), "regex"),
    ],
)
def test_a_wrong_argument_is_one_clear_error_and_writes_nothing(
    alice: Scope, call: object, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message.replace("$", r"\$")):
        call(alice)  # type: ignore[operator]
    assert alice.count() == 0


@pytest.mark.parametrize(
    "scope", ["", None, 3, b"alice", ["alice"], {"$ne": "bob"}, " alice", "a\x00b", "e\u0301"]
)
def test_a_scope_that_is_no_plain_name_is_refused(memory: NextMem, scope: object) -> None:
    with pytest.raises(InvalidArgument):
        memory.scope(scope)  # type: ignore[arg-type]


def test_empty_texts_and_queries_are_refused_and_a_bad_one_spoils_the_whole_batch(alice: Scope) -> None:
    with pytest.raises(EmptyText):
        alice.remember("")
    with pytest.raises(EmptyText, match="text 1 is empty"):
        alice.remember(["good", ""])
    with pytest.raises(EmptyText):
        alice.recall("")
    assert alice.count() == 0


def test_after_closing_there_is_one_clear_error(codec: LatentCodec, tmp_path: Path) -> None:
    memory = NextMem.open(tmp_path / "m", codec=codec)
    scope = memory.scope("alice")
    memory.close()
    memory.close()
    with pytest.raises(StoreClosed):
        scope.remember("late")


def test_every_public_method_has_an_async_twin() -> None:
    methods = {name for name, _ in inspect.getmembers(Scope, inspect.isfunction) if not name.startswith("_")}
    sync = {name for name in methods if f"a{name}" in methods}
    twins = {f"a{name}" for name in sync}
    assert methods - sync - twins == {"token_counter"}  # nothing to wait for


async def test_the_async_twins_do_the_same(alice: Scope) -> None:
    note = await alice.aremember("She moved to Lisbon.")
    assert (await alice.aget(note)).text == "She moved to Lisbon."
    hits = await alice.arecall("Lisbon")
    assert [(hit.id, hit.exact) for hit in hits] == [(note, True)]
    assert [memory.id async for memory in alice.alist()] == [note]
    assert (await alice.aanswer("Where?")).text == "She moved to Lisbon."
    assert await alice.acount() == 1
    assert await alice.aforget([note]) == 1
    assert await alice.aclear() == 0


def test_a_page_goes_on_behind_a_memory_that_was_updated_since(alice: Scope) -> None:
    alice.remember([f"Note {i}." for i in range(6)], id=[f"n{i}" for i in range(6)])
    last = [*alice.list(limit=2)][-1]
    alice.update("n1", role="user")
    assert [memory.id for memory in alice.list(limit=2, after=last)] == ["n2", "n3"]
    assert [memory.id for memory in alice.list(after=last)] == ["n2", "n3", "n4", "n5", "n1"]


def test_near_duplicates_without_a_session_are_found_behind_those_of_many_sessions(alice: Scope) -> None:
    text = "The boat leaves at noon."
    alice.remember([text] * 20, session=[f"s{i}" for i in range(20)])
    first = alice.remember(text)
    assert alice.remember(text, near_duplicates=0.95) == first
    assert alice.count() == 21


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda scope: scope.remember(b"bytes"), "bytes"),
        (lambda scope: scope.remember("x", id=5), "a memory id is a string"),
        (lambda scope: scope.update(["a"], "x"), "a memory id is a string"),
        (lambda scope: scope.recall("x", k=0), "k must be"),
        (lambda scope: scope.recall("x", k=2.5), "k must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(alice: Scope, call: Any, error: str) -> None:
    with pytest.raises(InvalidArgument, match=error):
        call(alice)


def test_any_whole_number_is_a_k(alice: Scope) -> None:
    alice.remember("The boat leaves at noon.")
    assert len(alice.recall("boat", k=10**30)) == len(alice.recall("boat", k=np.int64(2))) == 1


@pytest.mark.parametrize("model", [object(), lambda prompt: None], ids=["no function", "no reply"])
def test_a_model_is_a_function_from_a_prompt_to_its_reply(alice: Scope, model: Any) -> None:
    alice.remember("The key is under the pot.")
    with pytest.raises(InvalidArgument, match="a function from a prompt to its reply"):
        alice.answer("Where is the key?", model=model)
