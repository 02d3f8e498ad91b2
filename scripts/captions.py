"""Captions for rendered glyphs, and the traits of a picture that a caption may claim.

Owns the words of the embedded CLIP's text space. Knows nothing of
pixels or training.
"""

import random
from enum import IntFlag, auto

import torch

from scripts.glyphs import CHARACTERS, DIGITS, GREEK, LETTERS

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GREEK_WORDS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon"),
    *("phi", "chi", "psi", "omega"),
)
SYMBOL_WORDS = (
    *("plus sign", "equals sign", "question mark", "exclamation mark"),
    *("ampersand", "percent sign", "hash sign", "at sign"),
)


class Trait(IntFlag):
    """What a picture shows besides its character; a caption may claim some of it."""

    SMALL = auto()
    LARGE = auto()
    THIN = auto()
    BOLD = auto()
    NARROW = auto()
    WIDE = auto()
    TILTED = auto()
    SLANTED = auto()
    BLURRY = auto()
    PIXELATED = auto()
    NOISY = auto()
    FAINT = auto()
    LIGHT = auto()
    DARK = auto()
    RED = auto()
    GREEN = auto()
    BLUE = auto()
    YELLOW = auto()
    CAPITAL = auto()
    LOWERCASE = auto()


OF_GLYPH: dict[Trait, tuple[str, ...]] = {
    Trait.SMALL: ("small", "little", "tiny"),
    Trait.LARGE: ("large", "big", "huge"),
    Trait.THIN: ("thin", "light weight"),
    Trait.BOLD: ("bold", "thick", "heavy"),
    Trait.NARROW: ("narrow",),
    Trait.WIDE: ("wide",),
    Trait.TILTED: ("tilted", "rotated"),
    Trait.SLANTED: ("slanted", "italic"),
    Trait.BLURRY: ("blurry", "soft"),
    Trait.PIXELATED: ("pixelated", "low resolution"),
    Trait.FAINT: ("faint", "pale"),
    Trait.LIGHT: ("white", "bright"),
    Trait.DARK: ("dark", "black"),
    Trait.RED: ("red",),
    Trait.GREEN: ("green",),
    Trait.BLUE: ("blue",),
    Trait.YELLOW: ("yellow",),
    Trait.CAPITAL: ("capital", "uppercase"),
    Trait.LOWERCASE: ("lowercase",),
}
OF_PICTURE: dict[Trait, tuple[str, ...]] = {
    Trait.BLURRY: ("blurry", "blurred"),
    Trait.PIXELATED: ("pixelated", "low resolution"),
    Trait.NOISY: ("noisy", "grainy"),
    Trait.FAINT: ("low contrast", "faint"),
}
OF_PLACE: dict[Trait, tuple[str, ...]] = {
    Trait.LIGHT: ("on a dark background", "on black"),
    Trait.DARK: ("on a light background", "on white paper"),
    Trait.SLANTED: ("in italics",),
}
MEDIA = (
    *("image", "picture", "scan", "print", "drawing", "rendering", "sign", "close up", "crop"),
    *("good photo", "bad photo", "close up photo", "cropped photo", "photograph"),
)
OPENINGS = ("this is", "here is", "it shows", "we see", "there is", "it says")
ARTICLES = ("a", "the", "one", "this", "my", "some")


def character_names(char: str) -> tuple[str, ...]:
    """The nouns a caption may use for a character, likelier ones repeated."""
    if char in DIGITS:
        word = DIGIT_WORDS[int(char)]
        common = (word, word, word, f"number {word}", f"digit {word}")
        return (*common, f"number {char}", f"digit {char}", char, f"numeral {word}")
    if char in LETTERS:
        low = char.lower()
        return (f"letter {low}", f"letter {low}", f"letter {low}", f"character {low}", low)
    if char in GREEK:
        word = GREEK_WORDS[GREEK.index(char)]
        return (word, f"greek letter {word}", f"letter {word}")
    return (SYMBOL_WORDS[CHARACTERS.index(char) - len(DIGITS + LETTERS + GREEK)],)


def concept_ids() -> torch.Tensor:
    """(len(CHARACTERS),) int64: equal where captions share their nouns, as for b and B."""
    return torch.tensor([CHARACTERS.index(char.lower()) for char in CHARACTERS])


def write_caption(rng: random.Random, char: str, traits: Trait) -> tuple[str, Trait]:
    """One true caption of a picture, and the traits that it claims."""
    wanted = rng.choices((0, 1, 2), weights=(50, 37, 13))[0]
    claimed = Trait(0)
    adjectives: list[str] = []
    medium = "photo" if rng.random() < 0.6 else rng.choice(MEDIA)
    for trait in rng.sample(list(traits), min(wanted, len(traits))):
        claimed |= trait
        if trait in OF_PICTURE and (trait not in OF_GLYPH or rng.random() < 0.5):
            medium = f"{rng.choice(OF_PICTURE[trait])} {medium}"
        else:
            adjectives.append(rng.choice(OF_GLYPH[trait]))
    mentions_medium = bool(claimed & ~_glyph_only()) or rng.random() < 0.75
    noun = " ".join((*adjectives, rng.choice(character_names(char))))
    places = [trait for trait in OF_PLACE if trait in traits]
    if places and rng.random() < 0.08:
        place = rng.choice(places)
        claimed |= place
        noun = f"{noun} {rng.choice(OF_PLACE[place])}"
    return _frame(rng, noun, medium if mentions_medium else None), claimed


def vocabulary() -> list[str]:
    """Every word sequence that a caption can contain, so that its tokens are known beforehand."""
    phrases = [*MEDIA, *OPENINGS, *ARTICLES, "a photo of a", ".", "photo"]
    for table in (OF_GLYPH, OF_PICTURE, OF_PLACE):
        phrases.extend(phrase for words in table.values() for phrase in words)
    return phrases + [name for char in CHARACTERS for name in character_names(char)]


def _glyph_only() -> Trait:
    """The traits that no word for the medium can carry."""
    return ~Trait(0) & ~sum(OF_PICTURE, Trait(0))


def _frame(rng: random.Random, noun: str, medium: str | None) -> str:
    """The sentence around a noun phrase."""
    article = "a" if rng.random() < 0.55 else rng.choice(ARTICLES)
    stop = "." if rng.random() < 0.75 else ""
    if medium is not None:
        return f"a {medium} of {article} {noun}{stop}"
    opening = f"{rng.choice(OPENINGS)} " if rng.random() < 0.5 else ""
    return f"{opening}{article} {noun}{stop}"
