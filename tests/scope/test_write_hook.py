"""The application has the last word on what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nextmem_agents import EmptyText, InvalidArgument, MemoryRefused, NextMem
from nextmem_agents.items import Item

Open = Callable[..., NextMem]


def no_secrets(item: Item) -> Item | None:
    return None if "password" in item.text else item


def tagged(item: Item) -> Item:
    return replace(item, metadata={**item.metadata, "length": len(item.text), "by": item.scope})


def test_a_refused_text_is_one_clear_error_and_nothing_of_the_call_is_written(open_fake: Open) -> None:
    scope = open_fake(on_remember=no_secrets).scope("ann")
    with pytest.raises(MemoryRefused, match=r"refused text 1 for scope 'ann'.*nothing was written"):
        scope.remember(["harmless", "my password is 1234"])
    assert scope.count() == 0
    assert scope.remember("harmless")


def test_a_hook_can_tag_and_change_what_is_written(open_fake: Open) -> None:
    def redacted(item: Item) -> Item:
        return replace(item, text=item.text.replace("1234", "****"), role="checked")

    scope = open_fake(on_remember=tagged).scope("ann", on_remember=redacted)
    memory = scope.get(scope.remember("The code is 1234.", role="user", metadata={"kept": True}))
    assert (memory.text, memory.role) == ("The code is ****.", "checked")
    # The memory's own hook comes last, and sees what the scope's gave.
    assert memory.metadata == {"kept": True, "length": len("The code is ****."), "by": "ann"}
    assert len(scope.recall("1234", ranking="lexical")) == 0


def test_updates_pass_it_too(open_fake: Open) -> None:
    scope = open_fake(on_remember=no_secrets).scope()
    scope.remember("harmless", id="a")
    with pytest.raises(MemoryRefused):
        scope.update("a", "the password is 1234")
    assert scope.get("a").text == "harmless"


async def test_and_so_does_the_async_path(open_fake: Open) -> None:
    scope = open_fake(on_remember=no_secrets).scope()
    with pytest.raises(MemoryRefused):
        await scope.aremember("my password is 1234")
    await scope.aremember("harmless", id="a")
    with pytest.raises(MemoryRefused):
        await scope.aupdate("a", "the password is 1234")
    assert await scope.acount() == 1


def test_what_a_hook_raises_comes_through_and_nothing_is_written(open_fake: Open) -> None:
    def broken(item: Item) -> Item:
        raise RuntimeError("the classifier cannot be reached")

    scope = open_fake(on_remember=broken).scope()
    with pytest.raises(RuntimeError, match="classifier"):
        scope.remember("anything")
    assert scope.count() == 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda item: "text", InvalidArgument, "gives back the item"),
        (lambda item: replace(item, scope="bob"), InvalidArgument, "the same scope"),
        (lambda item: replace(item, text=""), EmptyText, "left nothing"),
        (lambda item: replace(item, text="\ud800"), InvalidArgument, "surrogate"),
        (lambda item: replace(item, metadata={"a": None}), InvalidArgument, "a"),
    ],
)
def test_a_hook_that_gives_nonsense_writes_nothing(
    open_fake: Open, given: Callable[[Item], Item], error: type[Exception], message: str
) -> None:
    scope = open_fake(on_remember=given).scope("ann")
    with pytest.raises(error, match=message):
        scope.remember("anything")
    assert scope.count() == 0


async def _coroutine(item: Item) -> Item:
    return item


@pytest.mark.parametrize("hook", [_coroutine, "hook", 7])
def test_a_hook_is_a_plain_function(open_fake: Open, hook: object) -> None:
    with pytest.raises(InvalidArgument, match="on_remember is a plain function"):
        open_fake(on_remember=hook)
    with pytest.raises(InvalidArgument, match="on_remember is a plain function"):
        open_fake().scope("a", on_remember=hook)  # type: ignore[arg-type]
