"""Small few-shot tasks with one right answer each, which SmolLM2-135M-Instruct mostly solves before any training.

Plain text and no chat template, as the paper asks its base models (Appendix D). An answer counts if greedy decoding
writes exactly it and then a line break, which one forward tells: it does if every token of the answer is the most
probable one after those before it. Two more families (what comes next, sums) were left out because the base model
solved only 27 % and 67 % of them; of these four it solves 93 %.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A prompt that ends where the answer begins; the answer starts with a space and ends with a line break."""

    family: str
    prompt: str
    answer: str


COPY = "apple river stone candle window garden bridge silver winter basket pepper castle rabbit pencil mirror coffee"
COPY += " summer engine forest butter island ladder market needle orange parrot rocket school tunnel valley"

CAPITALS = (
    "Italy Rome;Germany Berlin;Japan Tokyo;Spain Madrid;Russia Moscow;China Beijing;Egypt Cairo;Greece Athens;"
    "Portugal Lisbon;Austria Vienna;Ireland Dublin;Norway Oslo;Sweden Stockholm;Poland Warsaw;Hungary Budapest;"
    "Cuba Havana;Peru Lima;Canada Ottawa;Iraq Baghdad;Iran Tehran;Kenya Nairobi;Belgium Brussels;Finland Helsinki;"
    "Denmark Copenhagen;Thailand Bangkok;Turkey Ankara"
)
OPPOSITES = (
    "hot cold;big small;up down;left right;day night;black white;open closed;fast slow;happy sad;early late;old new;"
    "long short;hard soft;full empty;rich poor;strong weak;high low;good bad;wet dry;true false;first last;"
    "light dark;loud quiet;young old;thick thin;win lose;buy sell;love hate;north south;east west"
)
PLURALS = (
    "cat cats;house houses;tree trees;book books;car cars;dog dogs;friend friends;table tables;river rivers;"
    "song songs;hand hands;road roads;bird birds;game games;star stars;box boxes;city cities;baby babies;"
    "story stories;man men;woman women;child children;foot feet;mouse mice;tooth teeth;leaf leaves;knife knives;"
    "wolf wolves;country countries;party parties"
)
FAMILIES = {
    "copy": "Word: {q}\nThe same word:",
    "capital": "Country: {q}\nCapital:",
    "opposite": "Word: {q}\nOpposite:",
    "plural": "Singular: {q}\nPlural:",
}
SHOTS = 4


def questions(family: str) -> list[tuple[str, str]]:
    """Questions and answers of a family; the first `SHOTS` are the examples in every prompt."""
    if family == "copy":
        return [(word, word) for word in COPY.split()]
    table = {"capital": CAPITALS, "opposite": OPPOSITES, "plural": PLURALS}[family]
    rows = [row.split() for row in table.split(";")]
    return [(q, a) for q, a in rows]


def items() -> list[Item]:
    """Every item of every family, in a fixed order."""
    found = []
    for family, form in FAMILIES.items():
        rows = questions(family)
        shown = "".join(f"{form.format(q=q)} {a}\n\n" for q, a in rows[:SHOTS])
        found += [Item(family, shown + form.format(q=q), f" {a}\n") for q, a in rows[SHOTS:]]
    return found
