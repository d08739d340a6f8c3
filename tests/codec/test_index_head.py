"""The index head: what latents are searched by, saved and fingerprinted with its codec."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextmem_agents import CheckpointError, CodecMismatch, LatentCodec
from nextmem_agents.codec.index_head import FILE, IndexHead, late_interaction
from nextmem_agents.training.export import extend_codec
from tests.codec import tiny


@pytest.fixture(scope="module")
def head() -> IndexHead:
    torch.manual_seed(0)
    return IndexHead(64, 3, 16, 24, 128)


@pytest.fixture(scope="module")
def headed(head: IndexHead, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("headed")
    tiny.write_whole(folder / "plain")
    extend_codec(folder / "plain", folder / "headed", head=head)
    return LatentCodec.load(folder / "headed")


def by_definition(queries: Tensor, passages: Tensor) -> float:
    """MaxSim as ColBERT defines it, one pair at a time, with the norms of the query's terms as weights."""
    weights = [float(q.norm()) for q in queries]
    best = [max(float(torch.cosine_similarity(q, p, dim=0)) for p in passages) for q in queries]
    return sum(w * b for w, b in zip(weights, best, strict=True)) / sum(weights)


def test_late_interaction_is_its_definition_whatever_the_padding() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(2, 4, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)
    q_lengths, p_lengths = torch.tensor([4, 2]), torch.tensor([5, 1, 3])
    found = late_interaction(queries, q_lengths, passages, p_lengths)
    for i, n in enumerate(q_lengths):
        for j, m in enumerate(p_lengths):
            assert float(found[i, j]) == pytest.approx(
                by_definition(queries[i, :n], passages[j, :m]), abs=1e-5
            )


@pytest.mark.parametrize("vocabulary", [0, 50])
def test_terms_and_index_vectors_do_not_depend_on_padding(vocabulary: int) -> None:
    torch.manual_seed(3)
    head = IndexHead(64, 4, 16, 24, 32, vocabulary)
    rows = [torch.randn(n, 64) for n in (5, 1, 3)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    lengths = torch.tensor([5, 1, 3])
    terms, counts = head.terms(padded, lengths)
    pooled = head.pooled(padded, lengths)
    assert counts.tolist() == [20, 4, 12]
    for i, row in enumerate(rows):
        alone = head.of_text(row)
        torch.testing.assert_close(terms[i, : counts[i]], alone)
        torch.testing.assert_close(pooled[i], head.pooled(row[None], lengths[i : i + 1])[0])
        # The first token behind a latent's own comes from that latent.
        own, behind = head._read(row)
        torch.testing.assert_close(alone[0], own[0, 0])
        if len(row) > 1:
            torch.testing.assert_close(alone[4], behind[0])
            torch.testing.assert_close(alone[5], own[1, 1])


def test_a_term_vector_is_read_as_the_token_it_most_probably_names() -> None:
    torch.manual_seed(4)
    head = IndexHead(64, 4, 32, 24, 32, 50)
    tokens = torch.nn.functional.normalize(head.tokens.detach(), dim=-1)
    noisy = 5 * (tokens + 0.4 * torch.nn.functional.normalize(torch.randn(50, 32), dim=-1))
    with torch.inference_mode():
        found = head.expected(noisy.view(5, 10, 32)).view(50, 32)
    before, after = (torch.cosine_similarity(x, tokens) for x in (noisy, found))
    assert before.min() < 0.95 < 0.99 < after.min()
    torch.testing.assert_close(found.norm(dim=-1), noisy.norm(dim=-1))
    assert head.expected(noisy[:0]).shape == (0, 32)
    unnamed = IndexHead(64, 4, 32, 24, 32)
    assert unnamed.expected(noisy) is noisy


@pytest.mark.parametrize("gains", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("sharpness", [3.0, 4.0, 5.0])
def test_it_is_the_mean_of_the_tokens_by_their_probability(
    gains: bool, sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextmem_agents.codec.index_head.GAINS_BY_BFLOAT16", gains)
    torch.manual_seed(5)
    head = IndexHead(64, 4, 32, 24, 32, 50)
    with torch.inference_mode():
        head.sharpness.fill_(sharpness)
        terms = 3 * torch.randn(200, 32)  # far from all tokens, and more than are worked on at once
        tokens = torch.nn.functional.normalize(head.tokens, dim=-1)
        cosines = torch.nn.functional.normalize(terms, dim=-1) @ tokens.T
        mean = (cosines * head.sharpness.exp()).softmax(-1) @ tokens
        found = head.expected(terms)
        assert float(torch.cosine_similarity(found, mean).min()) > (0.97 if gains else 0.9999)
        torch.testing.assert_close(found.norm(dim=-1), terms.norm(dim=-1))


def test_a_text_is_nearest_to_itself_and_vectors_have_length_one(headed: LatentCodec) -> None:
    latents = headed.encode(tiny.TEXTS)
    scores = headed.late_interaction(latents, latents)
    assert torch.allclose(scores.diagonal(), torch.ones(len(latents)), atol=1e-5)
    assert (scores.argmax(1) == torch.arange(len(latents))).all()
    vectors = headed.index_vectors(latents)
    assert vectors.shape == (len(latents), 24)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(latents)))
    for i, text in enumerate(tiny.TEXTS):
        torch.testing.assert_close(
            headed.index_vectors(headed.encode([text]))[0], vectors[i], atol=1e-4, rtol=1e-3
        )


def test_without_a_head_latents_themselves_are_compared(whole: LatentCodec) -> None:
    latents = whole.encode(tiny.TEXTS[:3])
    torch.testing.assert_close(
        whole.index_vectors(latents), torch.nn.functional.normalize(whole.pool(latents), dim=-1)
    )
    assert whole.late_interaction(latents, latents).diagonal().min() > 0.9999


def test_nothing_gives_nothing(headed: LatentCodec) -> None:
    none, some = headed.encode([]), headed.encode(["a"])
    assert headed.late_interaction(none, some).shape == (0, 1)
    assert headed.index_vectors(none).shape == (0, 24)


def test_another_codecs_latents_are_refused(headed: LatentCodec, whole: LatentCodec) -> None:
    latents = whole.encode(["a"])
    with pytest.raises(CodecMismatch):
        headed.late_interaction(headed.encode(["a"]), latents)
    with pytest.raises(CodecMismatch):
        headed.index_vectors(latents)


def test_the_head_is_part_of_the_fingerprint_and_travels_with_the_codec(
    headed: LatentCodec, head: IndexHead, whole: LatentCodec, tmp_path: Path
) -> None:
    assert headed.fingerprint != whole.fingerprint
    assert torch.equal(headed.encode(["a"]).values, whole.encode(["a"]).values)
    headed.save_pretrained(tmp_path / "again")
    again = LatentCodec.load(tmp_path / "again")
    assert again.fingerprint == headed.fingerprint
    stored = {k: v.to(torch.bfloat16).float() for k, v in head.state_dict().items()}
    assert again.index_head is not None
    assert all(torch.equal(v, stored[k]) for k, v in again.index_head.state_dict().items())


def test_a_damaged_head_is_a_clear_error(headed: LatentCodec, tmp_path: Path) -> None:
    headed.save_pretrained(tmp_path / "codec")
    (tmp_path / "codec" / FILE).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="index head"):
        LatentCodec.load(tmp_path / "codec")


def test_memories_are_ranked_by_late_interaction(headed: LatentCodec) -> None:
    from nextmem_agents import NextMem

    with NextMem.open(":memory:", codec=headed) as memory:
        scope = memory.scope("alice")
        scope.remember(tiny.TEXTS[:2] + tiny.TEXTS[4:])
        for text in (tiny.TEXTS[0], tiny.TEXTS[5]):
            best = scope.recall(text, 3, ranking="latent")[0]
            assert best.text == text
            # What is stored is quantised, the query is not.
            assert best.score > 0.9
    assert dataclasses.asdict(headed.config)["fingerprint"] == headed.fingerprint


def test_tokens_named_in_haste_are_those_of_the_probabilities_but_for_near_ties() -> None:
    codec = LatentCodec.load()
    assert codec.index_head is not None
    latents = codec.encode(["She moved to Lisbon in May, and took both of her cats along.", "He did not."])
    with torch.inference_mode():
        terms, counts = codec.index_head.terms(latents.values, latents.lengths)
        named, _ = codec.index_head.named_tokens(terms)
        guessed = codec.index_head.nearest_tokens(terms)
    there = torch.arange(terms.shape[1]) < counts[:, None]
    assert guessed.shape == named.shape
    assert float((guessed == named)[there].float().mean()) > 0.95
