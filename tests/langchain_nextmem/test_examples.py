"""The LangChain examples run offline and say what they promise."""

from __future__ import annotations

from runpy import run_path

import pytest

from tests.conftest import CODEC


def test_the_agent_answers_from_earlier_conversations(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/langchain_agent.py")["main"](CODEC)
    printed = capsys.readouterr().out
    assert "Where did I move?\n  Agent: I moved to Lisbon in May, into a flat above a bakery." in printed
    assert "see the vet?\n  Agent: Rufus has to see the vet on Friday at ten." in printed


def test_the_agent_runs_on_the_codecs_own_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/langchain_agent.py")["main"](CODEC, "codec")
    assert capsys.readouterr().out.count("  Agent: ") == 5


def test_one_graph_serves_two_users_and_keeps_notes(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/langgraph_agent.py")["main"](CODEC)
    printed = capsys.readouterr().out
    asked = "friday: When does my flight leave?\n  -> "
    assert f"ann, {asked}My flight to Oslo leaves on the third of June." in printed
    assert f"ben, {asked}My flight to Rome leaves on the ninth of June." in printed
    assert "office/hours/vet: The vet opens at ten." in printed
    assert "open on six days: ana" in printed
    assert "ann: 4 memories\n  ben: 4 memories\n  team-notes: 2 memories" in printed


def test_the_chains_keep_two_users_apart(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/langchain_conversation.py")["main"](CODEC)
    printed = capsys.readouterr().out
    asked = "When does my flight leave?\n  -> "
    assert f"Ann: {asked}My flight to Oslo leaves on the third of June." in printed
    assert f"Ben: {asked}My flight to Rome leaves on the ninth of June." in printed
    assert f"cleared)\nAnn: {asked}I have no memory of that." in printed
