"""Texts that prose has little of: of their kind, reproducible, and not those of training."""

from __future__ import annotations

import re

import pytest

from nextmem_agents.evaluation.special import special_domains
from nextmem_agents.training.synthetic import synthetic_texts

DOMAINS = {domain.name: domain for domain in special_domains(40)}


def test_every_kind_has_as_many_texts_as_asked_for() -> None:
    kinds = list(DOMAINS)[:7]
    assert kinds == ["names", "digits", "numbers", "dates", "addresses", "hex ids", "code"]
    for kind in kinds:
        assert len(set(DOMAINS[kind].texts)) == 40


def test_they_are_the_same_at_every_call_and_others_with_another_seed() -> None:
    assert special_domains(40) == list(DOMAINS.values())
    assert special_domains(40, seed=1)[0] != DOMAINS["names"]


def test_none_is_in_training() -> None:
    seen = set(synthetic_texts(2_000, 0)) | set(synthetic_texts(2_000, 1))
    assert not seen & {text for domain in DOMAINS.values() for text in domain.texts if len(text) > 12}


@pytest.mark.parametrize(
    ("kind", "pattern"), [("digits", r"\d"), ("hex ids", r"[0-9a-fA-F]{6}"), ("names", r"[A-Z][a-z]{3}")]
)
def test_they_are_of_their_kind(kind: str, pattern: str) -> None:
    assert all(re.search(pattern, text) for text in DOMAINS[kind].texts)


def test_sixteen_languages_in_their_scripts() -> None:
    languages = {name: " ".join(domain.texts) for name, domain in DOMAINS.items() if name[0].isupper()}
    assert len(languages) == 16
    for name, script in [
        ("Russian", "а-я"),
        ("Greek", "α-ω"),
        ("Arabic", "ء-ي"),
        ("Hindi", "अ-ह"),
        ("Korean", "가-힣"),
    ]:
        assert len(re.findall(f"[{script}]", languages[name])) > 0.5 * len(languages[name].replace(" ", ""))
    assert all(len(set(DOMAINS[name].texts)) == 4 for name in languages)
