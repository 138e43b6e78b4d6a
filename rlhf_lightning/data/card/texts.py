"""What can be seen in a text without a model: its words, rough words among them, and a guess at its language.

Both lists are short on purpose, so that anyone can read what is counted. They are crude: "torture" is in a history book
too, abuse is possible without any of these words, and a stop word more or less decides between two languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from rlhf_lightning.errors import UserError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_LOOKED_AT = 2_000
"""Characters of a text that its language is guessed from."""

_STOP_WORDS = {
    "English": "the of and to in is that it you for with this are be on what how your from which was can i my does",
    "German": "der die das und ist nicht ein eine ich du wie mit für auf dem den von zu sich wird was auch sind",
    "French": "le les des et est une un que qui dans pour pas vous je sur avec ce du il comment quelle au sont",
    "Spanish": "el los las y es una un que en por para con no se su del como qué cómo al más lo son está",
    "Italian": "il gli che di è una un per non con del della sono come si nel più questo anche al cosa",
    "Portuguese": "o os as e é uma um que em por para com não se do da como ao mais são você na no está",
    "Dutch": "het een en van is dat niet op te zijn voor met aan er ik je hoe wat bij ook deze naar wordt",
    "Swedish": "och att det som är en ett på för med inte av den till jag du vad hur kan har om från",
    "Polish": "i w na nie się jest to z że do jak co dla po przez czy od jego który są",
    "Turkish": "bir ve bu için ile ne nasıl da de mi olarak çok daha olan gibi var",
    "Indonesian": "yang dan di untuk dengan ini itu dari tidak adalah pada apa bagaimana dalam saya anda",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _STOP_WORDS.items()}
_SCRIPTS = {
    "Japanese": "[\u3040-\u30ff]",  # before Chinese: Japanese text has Han characters too
    "Korean": "[\uac00-\ud7af]",
    "Chinese": "[\u4e00-\u9fff]",
    "Cyrillic script": "[\u0400-\u04ff]",
    "Greek": "[\u0370-\u03ff]",
    "Arabic script": "[\u0600-\u06ff]",
    "Hebrew": "[\u0590-\u05ff]",
    "Devanagari script": "[\u0900-\u097f]",
    "Thai": "[\u0e00-\u0e7f]",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _SCRIPTS.items()}
UNDETERMINED = "undetermined"


def words_of(text: str) -> frozenset[str]:
    """The different words of a text, in small letters.

    >>> sorted(words_of("It's a CAT, a cat!"))
    ['a', 'cat', "it's"]
    """
    return frozenset(_WORD.findall(text.lower()))


def language_of(text: str, words: frozenset[str] | None = None) -> str:
    """A language, a script, or "undetermined", by script and stop words.

    Args:
        text: Its first 2,000 characters count for the script.
        words: Of the text, where they are known already.

    >>> language_of("What does the cat eat?"), language_of("Was frisst die Katze?"), language_of("猫は何を食べますか")
    ('English', 'German', 'Japanese')
    >>> language_of("zzz")
    'undetermined'
    """
    if not text.isascii() and (script := _script(text[:_LOOKED_AT])):
        return script
    words = words_of(text[:_LOOKED_AT]) if words is None else words
    counts = sorted(((len(words & stops), name) for name, stops in _LANGUAGES.items()), reverse=True)
    (best, name), (second, _) = counts[:2]
    return name if best > second else UNDETERMINED


def _script(text: str) -> str | None:
    letters = sum(c.isalpha() for c in text)
    for name, pattern in _PATTERNS.items():
        # A Chinese name in an English text does not make it Chinese.
        if 10 * len(pattern.findall(text)) > 3 * letters:
            return name
    return None


def toxic_words(path: str | None = None) -> frozenset[str]:
    """The words that are counted as toxic: this project's short English list, or a file with one word a line.

    Raises:
        UserError: The file cannot be read, or holds no words.
    """
    if path is None:
        lists: dict[str, list[str]] = json.loads((Path(__file__).parent / "toxic_words.json").read_text("utf-8"))
        return frozenset(word for words in lists.values() for word in words)
    try:
        lines = Path(path).expanduser().read_text("utf-8").lower().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"toxic_words: cannot read {path} ({error}). Give UTF-8, one word a line.") from error
    found = _single_words(lines)
    if not found:
        raise UserError(f"toxic_words: {path} holds no words; give one a line.")
    return found


def _single_words(lines: Iterable[str]) -> frozenset[str]:
    return frozenset(line.strip() for line in lines if _WORD.fullmatch(line.strip()))
