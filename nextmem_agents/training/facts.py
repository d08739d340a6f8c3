"""Personal facts and questions about them, made up: what an agent's memory is asked for, with names nobody has met.

Everything is drawn from a seeded generator; nothing is copied from anywhere. Half of each list of values, and every
name with an odd checksum, is held out for evaluation, so that answers cannot be known from training.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from nextmem_agents.training.synthetic import made_up_word

_VALUES: dict[str, str] = {
    "city": "Lisbon Porto Madrid Seville Paris Lyon Berlin Hamburg Munich Vienna Prague Warsaw Krakow Oslo Bergen "
    "Stockholm Copenhagen Dublin Cork London Leeds Glasgow Boston Chicago Denver Seattle Austin Toronto Montreal Lima "
    "Bogota Quito Nairobi Accra Lagos Cairo Tunis Delhi Mumbai Pune Osaka Kyoto Seoul Busan Hanoi Manila Perth Sydney",
    "job": "nurse teacher carpenter pilot baker lawyer dentist farmer plumber painter librarian surgeon chemist "
    "journalist translator architect photographer accountant electrician gardener waiter editor welder tailor barber",
    "food": "lasagne sushi curry paella ramen tacos pancakes risotto falafel dumplings goulash pizza couscous pho "
    "moussaka kimchi pierogi chowder ceviche biryani waffles porridge omelettes",
    "drink": "coffee tea cocoa lemonade cider water milk juice beer wine",
    "pet": "dog cat rabbit parrot hamster turtle pony goldfish ferret canary lizard goat",
    "hobby": "chess climbing pottery knitting sailing archery cycling painting karate fishing gardening skiing surfing "
    "astronomy fencing rowing origami juggling bowling judo yoga running birdwatching woodcarving",
    "colour": "red blue green yellow purple orange white black silver brown pink turquoise",
    "instrument": "piano violin guitar cello flute drums trumpet harp clarinet banjo saxophone accordion",
    "language": "Spanish Portuguese French German Italian Polish Swedish Finnish Greek Turkish Arabic Hindi Korean",
    "month": "January February March April May June July August September October November December",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "thing": "bicycle camera tent lamp sofa kayak telescope backpack watch keyboard jacket umbrella guitar scooter",
    "relative": "sister brother mother father aunt uncle cousin neighbour friend boss colleague daughter son",
    "allergy": "peanuts pollen shellfish milk eggs cats dust soy wheat strawberries penicillin sesame",
}
_HELD_OUT = {kind: set(words.split()[1::2]) for kind, words in _VALUES.items()}
_CLOSED = {"month", "day", "relative", "drink"}  # too few to hold any out

# (statement, question, answer); {a} is a name, other braces are kinds of value, numbered where two are needed.
_TEMPLATES: list[tuple[str, str, str]] = [
    ("{a} lives in {city}.", "Where does {a} live?", "{city}"),
    ("{a} moved to {city} in {month}.", "Where did {a} move?", "{city}"),
    ("{a} moved to {city} in {month}.", "When did {a} move to {city}?", "{month}"),
    ("{a} works as a {job} in {city}.", "What is {a}'s job?", "{job}"),
    ("{a} works as a {job} in {city}.", "Where does {a} work?", "{city}"),
    ("My {relative} {a} is a {job}.", "What does {a} do for a living?", "{job}"),
    ("My {relative} {a} is a {job}.", "Who is {a}?", "{relative}"),
    ("My {relative} is called {a}.", "What is the name of my {relative}?", "{a}"),
    ("{a}'s favourite food is {food}.", "What is {a}'s favourite food?", "{food}"),
    ("{a} loves {food} but never drinks {drink}.", "What food does {a} love?", "{food}"),
    ("{a} loves {food} but never drinks {drink}.", "What does {a} never drink?", "{drink}"),
    ("{a} has a {pet} called {b}.", "What pet does {a} have?", "{pet}"),
    ("{a} has a {pet} called {b}.", "What is the name of {a}'s {pet}?", "{b}"),
    ("I have a {pet} named {b}.", "What is my {pet} called?", "{b}"),
    ("{a} started {hobby} in {month}.", "What did {a} start in {month}?", "{hobby}"),
    ("{a} started {hobby} in {month}.", "When did {a} start {hobby}?", "{month}"),
    ("{a} goes {hobby} every {day}.", "On which day does {a} go {hobby}?", "{day}"),
    ("{a} plays the {instrument} and speaks {language}.", "Which instrument does {a} play?", "{instrument}"),
    ("{a} plays the {instrument} and speaks {language}.", "What language does {a} speak?", "{language}"),
    ("{a} is allergic to {allergy}.", "What is {a} allergic to?", "{allergy}"),
    ("Please remember that I am allergic to {allergy}.", "What am I allergic to?", "{allergy}"),
    ("{a} bought a {colour} {thing} for {n} euros.", "What did {a} buy?", "a {colour} {thing}"),
    ("{a} bought a {colour} {thing} for {n} euros.", "How much did {a} pay for the {thing}?", "{n} euros"),
    ("{a} bought a {colour} {thing} for {n} euros.", "What colour is {a}'s {thing}?", "{colour}"),
    ("{a} was born on {d} {month} {y}.", "When was {a} born?", "{d} {month} {y}"),
    ("{a} was born in {city} in {y}.", "In which year was {a} born?", "{y}"),
    ("{a} was born in {city} in {y}.", "Where was {a} born?", "{city}"),
    ("My appointment with {a} is on {day} at {h}.", "When is my appointment with {a}?", "{day} at {h}"),
    ("The code of the {colour} door is {n}.", "What is the code of the {colour} door?", "{n}"),
    ("{a}'s phone number is {p}.", "What is {a}'s phone number?", "{p}"),
    ("{a} married {b} in {y}.", "Who did {a} marry?", "{b}"),
    ("{a} married {b} in {y}.", "When did {a} marry {b}?", "{y}"),
    ("I told {a} that the {thing} is in the {colour} box.", "Where is the {thing}?", "in the {colour} box"),
    ("Yesterday {a} and I went to {city} to see {b}.", "Who did we go to see in {city}?", "{b}"),
]  # fmt: skip
_OPENINGS = ("", "", "", "By the way, ", "Did I tell you? ", "Good news: ", "So, ", "Note: ", "I think ")
_CLOSINGS = ("", "", "", " It was a nice surprise.", " Please keep that in mind.",
    " How about you?", " That made me smile.",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A statement, a question about it, and the answer, which is a part of the statement."""

    statement: str
    question: str
    answer: str


def facts(count: int, seed: int, *, held_out: bool = False) -> Iterator[Fact]:
    """Yield ``count`` facts; with ``held_out``, of names and open values that training never uses.

    A quarter of the held-out answers are of closed kinds (months, weekdays, kinship, drinks), which both have.

    Examples:
        >>> fact = next(facts(1, seed=3))
        >>> fact.answer in fact.statement
        True
    """
    r = random.Random(f"{seed} {held_out}")
    for _ in range(count):
        statement, question, answer = r.choice(_TEMPLATES)
        values = {kind: _value(r, kind, held_out) for kind in _VALUES} | {
            "a": _name(r, held_out),
            "b": _name(r, held_out),
            "n": str(r.randint(3, 9999)),
            "d": str(r.randint(1, 28)),
            "y": str(r.randint(1930, 2025)),
            "h": f"{r.randint(1, 12)}:{r.choice(['00', '15', '30', '45'])}",
            "p": "".join(r.choices("0123456789", k=r.randint(6, 9))),
        }
        text = r.choice(_OPENINGS) + statement.format(**values) + r.choice(_CLOSINGS)
        yield Fact(text, question.format(**values), answer.format(**values))


def _value(r: random.Random, kind: str, held_out: bool) -> str:
    words = _VALUES[kind].split()
    return r.choice(words if kind in _CLOSED else [w for w in words if (w in _HELD_OUT[kind]) == held_out])


def _name(r: random.Random, held_out: bool) -> str:
    while True:
        name = made_up_word(r).capitalize()
        if (zlib.crc32(name.encode()) % 2 == 1) == held_out:
            return name
