"""Words for portraits: truthful captions to train on, what a caption says, plain prompts, and the words that there are.

A caption is made of phrases that know what they say, and `said_in` looks the same phrases up again. A continuous attribute
is spoken of in degrees: each names a stretch of the attribute's range and means its centre.
"""

from __future__ import annotations

import math
import re

import numpy as np

from .faces import CATEGORICAL, CONTINUOUS, Face, visible

MAX_TOKENS = 32  # of a caption, start and end included
START, END = 0, 1

# Categorical phrases that stand alone. In phrases of one word and a noun ("red hair"), see NOUNS.
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "style": {"bald": ("bald", "bald head", "no hair", "shaved head"), "bun": ("bun", "hair in a bun", "hair bun", "top knot")},
    "glasses": {
        "none": ("no glasses", "without glasses"),
        "glasses": ("glasses", "eyeglasses", "spectacles"),
        "sunglasses": ("sunglasses", "dark glasses", "shades"),
    },
    "hat": {
        "none": ("no hat", "without a hat", "bareheaded"),
        "hat": ("hat", "brimmed hat", "sun hat"),
        "cap": ("cap", "baseball cap"),
        "beanie": ("beanie", "knitted hat", "woolly hat"),
    },
    "earrings": {"none": ("no earrings", "without earrings"), "earrings": ("earrings", "gold earrings", "hoop earrings")},
}
# Stretches of each continuous attribute's range, the plainest phrase first, the plainest prompts' stretches first.
DEGREES: dict[str, tuple[tuple[float, float, tuple[str, ...]], ...]] = {
    "smile": (
        (0.35, 1.0, ("smiling", "smile", "happy", "smiles", "happy face")),
        (-1.0, -0.35, ("frowning", "sad", "frown", "unhappy", "sad face")),
        (-0.14, 0.14, ("neutral expression", "serious", "serious face", "no smile")),
        (0.75, 1.0, ("big smile", "grin", "grinning", "very happy", "broad smile", "laughing")),
        (0.12, 0.48, ("slight smile", "faint smile", "small smile", "slightly smiling")),
        (-0.48, -0.12, ("slight frown", "slightly frowning", "slightly sad")),
        (-1.0, -0.75, ("very sad", "deep frown", "big frown")),
    ),
    "mouth": (
        (0.5, 1.0, ("open mouth", "mouth open")),
        (0.0, 0.06, ("closed mouth", "mouth closed")),
        (0.75, 1.0, ("mouth wide open", "wide open mouth")),
        (0.12, 0.48, ("slightly open mouth", "mouth slightly open")),
    ),
    "age": (
        (0.65, 1.0, ("old", "elderly", "senior", "aged", "wrinkles")),
        (0.0, 0.3, ("young", "youthful", "smooth face")),
        (0.35, 0.65, ("middle aged", "adult", "mature")),
        (0.82, 1.0, ("very old", "ancient", "many wrinkles")),
        (0.0, 0.15, ("very young",)),
    ),
    "beard": (
        (0.5, 1.0, ("beard", "bearded", "full beard")),
        (0.0, 0.0, ("no beard", "clean shaven", "without a beard")),
        (0.8, 1.0, ("long beard", "very long beard", "big beard")),
        (0.35, 0.65, ("short beard", "trimmed beard")),
        (0.05, 0.3, ("stubble", "unshaven", "light beard")),
    ),
    "light": (
        (-1.0, -0.35, ("light from the left", "lit from the left", "left light")),
        (0.35, 1.0, ("light from the right", "lit from the right", "right light")),
        (-0.25, 0.25, ("light from the front", "even light", "lit from the front")),
    ),
    "turn": (
        (-1.0, -0.35, ("looking left", "facing left", "turned left", "looking to the left", "head turned to the left")),
        (0.35, 1.0, ("looking right", "facing right", "turned right", "looking to the right", "head turned to the right")),
        (-0.18, 0.18, ("facing the camera", "looking straight ahead", "facing front", "looking at the viewer")),
        (-0.5, -0.12, ("turned slightly left", "looking slightly left")),
        (0.12, 0.5, ("turned slightly right", "looking slightly right")),
    ),
}
# Words before a noun: of values, and of stretches of a range.
NOUNS: dict[str, dict[str, tuple[tuple[str | tuple[float, float], tuple[str, ...]], ...]]] = {
    "hair": {
        "style": (("straight", ("straight",)), ("wavy", ("wavy",)), ("curly", ("curly", "frizzy")), ("spiky", ("spiky", "punk"))),
        "hair": (
            ("black", ("black",)),
            ("brown", ("brown", "brunette")),
            ("blond", ("blond", "blonde")),
            ("red", ("red", "ginger")),
            ("blue", ("blue",)),
            ("pink", ("pink",)),
        ),
        "hair_length": (
            ((0.55, 1.0), ("long",)),
            ((0.0, 0.35), ("short",)),
            ((0.8, 1.0), ("very long",)),
            ((0.0, 0.15), ("very short", "cropped")),
            ((0.32, 0.62), ("medium length", "shoulder length")),
        ),
        "age": (((0.75, 1.0), ("gray", "grey", "white")),),
    },
    "shirt": {"shirt": tuple((value, (value,)) for value in CATEGORICAL["shirt"])},
    "background": {
        "background": tuple((value, (value, "grey")) if value == "gray" else (value, (value,)) for value in CATEGORICAL["background"])
    },
    "skin": {
        "skin": (
            ((0.7, 1.0), ("dark",)),
            ((0.0, 0.3), ("light", "fair")),
            ((0.35, 0.65), ("medium", "tan", "tanned", "olive")),
            ((0.5, 0.8), ("brown",)),
            ((0.85, 1.0), ("very dark",)),
            ((0.0, 0.12), ("very light", "pale")),
        )
    },
    "eyes": {
        "eyes": (
            ((0.35, 1.0), ("big", "large")),
            ((-1.0, -0.35), ("small",)),
            ((-0.25, 0.25), ("normal",)),
            ((0.7, 1.0), ("very big", "huge")),
            ((-1.0, -0.7), ("very small", "tiny")),
        )
    },
    "face": {
        "width": (
            ((0.35, 1.0), ("wide", "round", "broad")),
            ((-1.0, -0.35), ("narrow", "thin", "slim")),
            ((-0.25, 0.25), ("oval",)),
            ((0.7, 1.0), ("very wide",)),
            ((-1.0, -0.7), ("very narrow",)),
        )
    },
}
NOUN_SYNONYMS = {"shirt": ("shirt", "sweater", "top"), "background": ("background", "backdrop", "wall")}

# Phrases that say how somebody is; all others name a thing that somebody has.
_STATES = {
    "bald",
    "bareheaded",
    "smiling",
    "happy",
    "smiles",
    "frowning",
    "sad",
    "unhappy",
    "serious",
    "grinning",
    "very happy",
    "laughing",
    "slightly smiling",
    "slightly frowning",
    "slightly sad",
    "very sad",
    "old",
    "elderly",
    "senior",
    "aged",
    "young",
    "youthful",
    "middle aged",
    "adult",
    "mature",
    "very old",
    "ancient",
    "very young",
    "bearded",
    "clean shaven",
    "unshaven",
    "lit from the left",
    "lit from the right",
    "lit from the front",
} | {phrase for _, _, phrases in DEGREES["turn"] for phrase in phrases}
_BEFORE_PERSON = {
    "bald",
    "smiling",
    "happy",
    "frowning",
    "sad",
    "serious",
    "grinning",
    "laughing",
    "old",
    "elderly",
    "senior",
    "young",
    "youthful",
    "middle aged",
    "very old",
    "very young",
    "bearded",
    "clean shaven",
    "unshaven",
    "very happy",
    "very sad",
    "slightly smiling",
}
_WORN = {phrase for name in ("glasses", "hat", "earrings") for phrases in PHRASES[name].values() for phrase in phrases}
_COUNTED = {
    "smile",
    "grin",
    "frown",
    "face",
    "head",
    "beard",
    "hat",
    "cap",
    "beanie",
    "bun",
    "knot",
    "mouth",
    "expression",
    "shirt",
    "sweater",
    "top",
    "background",
    "backdrop",
    "wall",
    "person",
}
_SUBJECTS = (
    "a portrait",
    "a face",
    "a person",
    "portrait",
    "face",
    "person",
    "a drawing of a person",
    "a portrait of a person",
    "",
    "",
    "",
)
_SENTENCES = ("a portrait of {}", "a drawing of {}", "{}", "{}", "a picture of {}")
_UNREMARKABLE = {"none", "neutral expression", "closed mouth", "no beard", "light from the front", "facing the camera", "normal", "oval"}
_WORD = re.compile(r"[a-z]+|[,.;]")

Said = dict[str, int | float]
Piece = tuple[str, Said]  # a phrase and what it says


def _tables() -> tuple[dict[tuple[str, ...], Piece], dict[str, dict[tuple[str, ...], Said]]]:
    """All phrases by their words, and for each noun the words that may stand before it with what they say."""
    phrases, nouns = {}, {}
    for name, values in PHRASES.items():
        for value, spoken in values.items():
            phrases.update({tuple(p.split()): (name, CATEGORICAL[name].index(value)) for p in spoken})
    for name, stretches in DEGREES.items():
        for low, high, spoken in stretches:
            phrases.update({tuple(p.split()): (name, (low + high) / 2) for p in spoken})
    for noun, attributes in NOUNS.items():
        words = {
            tuple(p.split()): (name, _meaning(name, what)) for name, rows in attributes.items() for what, spoken in rows for p in spoken
        }
        nouns.update(dict.fromkeys(NOUN_SYNONYMS.get(noun, (noun,)), words))
    return phrases, nouns


def _meaning(name: str, what: str | tuple[float, float]) -> int | float:
    return CATEGORICAL[name].index(what) if isinstance(what, str) else sum(what) / 2


_BY_WORDS, _BEFORE_NOUN = _tables()
_LONGEST = max(map(len, _BY_WORDS))


def _spoken_words() -> list[str]:
    texts = [
        *_SUBJECTS,
        *_SENTENCES,
        "with and wearing has is in an the not",
        *(" ".join(words) for words in _BY_WORDS),
        *_BEFORE_NOUN,
        *(" ".join(words) for table in _BEFORE_NOUN.values() for words in table),
    ]
    return sorted({word for text in texts for word in re.findall("[a-z]+", text)})


VOCABULARY: dict[str, int] = {"<start>": START, "<end>": END, **{word: k for k, word in enumerate(_spoken_words(), 2)}}


def words_to_ids(text: str) -> list[int]:
    """Token ids of the known words of a text, without start and end; unknown words are skipped."""
    return [VOCABULARY[word] for word in re.findall("[a-z]+", text.lower()) if word in VOCABULARY]


def unknown_words(text: str) -> list[str]:
    """The words of a text that `words_to_ids` skips."""
    return [word for word in re.findall("[a-z]+", text.lower()) if word not in VOCABULARY]


def caption(face: Face, rng: np.random.Generator) -> str:
    """A random, truthful description of a face, often incomplete, in random order and wording."""
    return told(face, rng)[0]


def told(face: Face, rng: np.random.Generator) -> tuple[str, Said]:
    """A caption, and what it says: for each attribute it speaks of, the value's index or the centre of the degree."""
    pieces = _pieces(face, rng)
    rng.shuffle(pieces)
    if rng.random() < 0.1:
        pieces = pieces[: 1 + int(rng.integers(2))]
    shape = _as_sentence if rng.random() < 0.4 else _as_list
    while True:
        text = shape([phrase for phrase, _ in pieces], rng)
        if len(words_to_ids(text)) <= MAX_TOKENS - 2:
            return text, {name: value for _, said in pieces for name, value in said.items()}
        pieces = pieces[:-1]


def _pick(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]


def _pieces(face: Face, rng: np.random.Generator) -> list[Piece]:
    """Phrases for a random part of what the picture of a face shows."""
    seen, keep, pieces = visible(face), min(1.0, rng.uniform(0.12, 1.2)), []
    names = [name for name in (*CATEGORICAL, *CONTINUOUS) if name in seen and rng.random() < keep]
    adjectives: dict[str, list[Piece]] = {}
    for name in names:
        chosen = _wording(face, name, rng)
        if chosen is None:
            continue
        noun, phrase, meaning = chosen
        if noun:
            adjectives.setdefault(noun, []).append((phrase, {name: meaning}))
        elif not (_plain(face, name, phrase) and rng.random() < 0.45):
            pieces.append((phrase, {name: meaning}))
    return pieces + [piece for noun, before in adjectives.items() for piece in _joined(noun, before, rng)]


def _plain(face: Face, name: str, phrase: str) -> bool:
    """Whether a phrase says what nobody would remark upon."""
    return face.labels.get(name) == "none" or phrase in _UNREMARKABLE


def _wording(face: Face, name: str, rng: np.random.Generator) -> tuple[str | None, str, int | float] | None:
    """A noun to stand before (or None), a phrase and its meaning, that are true of a face; None where no words fit."""
    if name in CATEGORICAL:
        value = face.labels[name]
        ways = [(None, phrases, value) for phrases in (PHRASES.get(name, {}).get(value, ()),) if phrases]
        ways += [(noun, spoken, what) for noun, rows in NOUNS.items() for what, spoken in rows.get(name, ()) if what == value]
    else:
        value = face.numbers[name]
        ways = [(None, spoken, (low, high)) for low, high, spoken in DEGREES.get(name, ()) if low <= value <= high]
        ways += [
            (noun, spoken, what)
            for noun, rows in NOUNS.items()
            for what, spoken in rows.get(name, ())
            if what[0] <= value <= what[1] and not (name == "age" and face.labels["style"] == "bald")
        ]
    if not ways:
        return None
    noun, phrases, what = _pick(rng, ways)
    phrase = phrases[0] if rng.random() < 0.35 else _pick(rng, phrases)
    return noun, phrase, _meaning(name, what)


def _joined(noun: str, before: list[Piece], rng: np.random.Generator) -> list[Piece]:
    """`curly hair` and `red hair` are mostly said `curly red hair`."""
    noun = _pick(rng, NOUN_SYNONYMS.get(noun, (noun,)))
    if len(before) > 1 and rng.random() < 0.7:
        rng.shuffle(before)
        before = [(" ".join(phrase for phrase, _ in before), {k: v for _, said in before for k, v in said.items()})]
    return [(f"{phrase} {noun}", said) for phrase, said in before]


def _as_list(phrases: list[str], rng: np.random.Generator) -> str:
    subject = _pick(rng, _SUBJECTS)
    return ", ".join(([subject] if subject else []) + phrases) or "a portrait"


def _with_article(phrase: str) -> str:
    words = phrase.split()
    if words[-1] not in _COUNTED or words[0] in ("no", "without"):
        return phrase
    return ("an " if words[0][0] in "aeiou" else "a ") + phrase


def _as_sentence(phrases: list[str], rng: np.random.Generator) -> str:
    """`a portrait of a happy person with red hair and a hat, looking left`."""
    before = [p for p in phrases if p in _BEFORE_PERSON][:2]
    states = [p for p in phrases if (p in _STATES or p.startswith("without ")) and p not in before]
    worn = [p for p in phrases if p in _WORN and p not in states and not p.startswith("no ")]
    things = [_with_article(p) for p in phrases if p not in before and p not in states and p not in worn]
    clauses = [_with_article(" ".join([*before, "person"]))]
    if things:
        clauses[0] += " with " + _listed(things)
    if worn:
        clauses.append("wearing " + _listed([_with_article(p) for p in worn]))
    return _pick(rng, _SENTENCES).format(", ".join(clauses + states))


def _listed(things: list[str]) -> str:
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]


def prompt_for(**wanted: str | float) -> str:
    """A plain prompt for given values, in their order: `prompt_for(glasses="sunglasses", smile=0.9)`."""
    return ", ".join(["a portrait", *(_plainest(name, value) for name, value in wanted.items())])


def _plainest(name: str, value: str | float) -> str:
    """The plainest phrase that means a value, or comes nearest to it."""
    if name not in CATEGORICAL and name not in CONTINUOUS:
        raise ValueError(f"{name}: no such attribute; name one of {', '.join((*CATEGORICAL, *CONTINUOUS))}.")
    if name in CATEGORICAL and value not in CATEGORICAL[name]:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(CATEGORICAL[name])}.")
    ways = [(what, spoken[0], None) for what, spoken in PHRASES.get(name, {}).items()]
    ways += [((low, high), spoken[0], None) for low, high, spoken in DEGREES.get(name, ())]
    ways += [(what, spoken[0], noun) for noun, rows in NOUNS.items() if name != "age" for what, spoken in rows.get(name, ())]
    if name in CATEGORICAL:
        ways = [way for way in ways if way[0] == value]
    _, phrase, noun = min(ways, key=lambda way: 0 if name in CATEGORICAL else abs(sum(way[0]) / 2 - value))
    return f"{phrase} {noun}" if noun else phrase


def said_in(captions: list[str]) -> dict[str, list]:
    """What each caption says of each attribute.

    A categorical attribute's list holds the value's index, or the number of values where the caption does not speak of it; a
    continuous one's holds the centre of what the words mean (the mean of several), or nan.
    """
    heard = [_heard(text) for text in captions]
    said: dict[str, list] = {
        name: [words[name][-1] if name in words else len(values) for words in heard] for name, values in CATEGORICAL.items()
    }
    said.update({name: [sum(words[name]) / len(words[name]) if name in words else math.nan for words in heard] for name in CONTINUOUS})
    return said


def _heard(text: str) -> dict[str, list]:
    """All that a text says, by attribute, in order: at each place the longest phrase counts, and before a noun its words."""
    tokens, heard, free, k = _WORD.findall(text.lower()), {}, 0, 0
    while k < len(tokens):
        length = next((n for n in range(_LONGEST, 0, -1) if tuple(tokens[k : k + n]) in _BY_WORDS), 0)
        if length:
            name, meaning = _BY_WORDS[tuple(tokens[k : k + length])]
            heard.setdefault(name, []).append(meaning)
            k += length
            free = k
            continue
        if tokens[k] in _BEFORE_NOUN:
            for name, meaning in _before(tokens[free:k], _BEFORE_NOUN[tokens[k]]):
                heard.setdefault(name, []).append(meaning)
            free = k + 1
        k += 1
    return heard


def _before(tokens: list[str], words: dict[tuple[str, ...], Said]) -> list[tuple[str, int | float]]:
    """What the words right before a noun say, read backwards from it."""
    found, end = [], len(tokens)
    while end:
        length = next((n for n in (2, 1) if n <= end and tuple(tokens[end - n : end]) in words), 0)
        if not length:
            break
        found.append(words[tuple(tokens[end - length : end])])
        end -= length
    return found
