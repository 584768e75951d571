"""Invented names: words built from syllables by a bijection, so that all differ.

A word is ``onset vowel medial vowel ending``, as in ``T-e-rv-a-n``. Onsets, medials and endings
begin with consonants and vowels are vowels only, so a word has one decomposition: different codes
are different words. Each style (surnames, cities, ...) has its own endings, so no two styles share
a word. The code of the ``j``-th word is ``3 * permutation(j) + split``: train, validation and test
therefore share no word, whatever their seeds.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from search_env.types import SPLITS
from search_env.worlds.encyclopaedia.rng import below, key, mix

# An empty onset starts the word with its vowel. Double and single consonants are no medials, since
# words with them often exist.
_ONSETS = (
    *("", "b", "br", "d", "dr", "f", "fr", "g", "gl", "gr", "h", "j", "k", "kr", "l", "m", "n"),
    *("p", "pr", "r", "s", "sk", "sl", "st", "t", "th", "tr", "v", "w", "y", "z"),
)
_FIRST_VOWELS = ("a", "e", "i", "o", "u", "au", "ei")
_SECOND_VOWELS = ("a", "e", "i", "o", "u")
_MEDIALS = (
    *("dr", "dv", "ft", "gn", "gr", "lb", "ld", "ldr", "lf", "lk", "lm", "ls", "lth", "lv", "lz"),
    *("mb", "mbr", "mp", "nk", "nt", "ntr", "nv", "nz", "rd", "rg", "rk", "rl", "rm", "rn", "rth"),
    *("rv", "sk", "skr", "sp", "str", "sv", "thr", "vr", "zd", "zm"),
)
_ENDINGS = {
    "woman": (
        *("na", "lla", "sa", "th", "ssa", "lia", "ria", "va", "mi", "sha", "nia", "dra", "lle"),
        *("vina", "beth", "lind"),
    ),
    "man": (
        *("lan", "rin", "lem", "mon", "rd", "ndo", "ric", "ven", "mar", "bert", "to", "vo"),
        *("ko", "gan", "dan", "mund"),
    ),
    "surname": (
        *("ridde", "vane", "sson", "mark", "quist", "rell", "low", "nick", "ssen", "dahl", "berg"),
        *("mont", "field", "worth", "lyn", "nov", "vich", "ski", "zari", "pole", "dane", "grave"),
        *("stone", "wright", "court", "mann", "kamp", "stad", "tier", "bury"),
    ),
    "country": ("land", "stan", "via", "donia", "gia", "bia", "sia", "rran"),
    "region": ("shire", "wald", "lund", "heim", "gau", "sland", "reach", "strand"),
    "city": (
        *("burg", "ton", "mere", "holm", "wick", "ford", "haven", "minster", "port", "gate"),
        *("vale", "moor", "polis", "gard", "bridge", "cester"),
    ),
    "nature": (
        *("sk", "dor", "ness", "rra", "lun", "gul", "nar", "rish", "vek", "thal", "zul", "mir"),
        *("run", "lor", "dal", "ves"),
    ),
    "work": (
        *("nor", "sil", "quen", "dris", "phel", "lorn", "zar", "thir", "nyx", "roth", "myr"),
        *("dell", "vorn", "lume", "shade", "glass", "rune", "noth", "sper", "lith", "brand"),
        *("wen", "dusk", "fane", "crest", "ruel", "tide"),
    ),
    "organisation": (
        *("tek", "co", "dex", "lix", "ron", "vant", "mond", "tris", "kor", "plex", "cor", "nex"),
        *("tor", "gandt", "bro", "sten"),
    ),
}  # fmt: skip


def capacity(style: str) -> int:
    """Return the number of words of a style in one split."""
    side = _side(style)
    return side * side


def codes(style: str, seed: int, split: str, count: int) -> NDArray[np.int64]:
    """Return codes of the first ``count`` (at most :func:`capacity`) words, all different."""
    side = _side(style)
    left, right = np.divmod(np.arange(count, dtype=np.uint64), np.uint64(side))
    # An alternating Feistel network over pairs of residues (Black and Rogaway, "Ciphers with
    # arbitrary finite domains", 2002): each round adds to one half a hash of the other, which
    # is invertible, so the network is a permutation.
    for number in range(3):
        left = (left + below(mix(right ^ np.uint64(key(seed, style, number, "l"))), side)) % side
        right = (right + below(mix(left ^ np.uint64(key(seed, style, number, "r"))), side)) % side
    return (3 * (left * side + right) + SPLITS.index(split)).astype(np.int64)


def word(style: str, code: int) -> str:
    """Return the word of a code.

    Example:
        >>> word("surname", 0), word("surname", 1)
        ('Adraridde', 'Adreridde')
    """
    # The second vowel is the lowest digit: its 5 values share no factor with the 3 splits, so
    # every split has every vowel and, by the carries, every syllable.
    rest, second = divmod(code, len(_SECOND_VOWELS))
    rest, first = divmod(rest, len(_FIRST_VOWELS))
    rest, medial = divmod(rest, len(_MEDIALS))
    ending, onset = divmod(rest, len(_ONSETS))
    start = _ONSETS[onset] + _FIRST_VOWELS[first] + _MEDIALS[medial]
    return (start + _SECOND_VOWELS[second] + _ENDINGS[style][ending]).capitalize()


def _side(style: str) -> int:
    """Return the side of the largest square of words that every split has."""
    vowels = len(_FIRST_VOWELS) * len(_SECOND_VOWELS)
    words = len(_ONSETS) * vowels * len(_MEDIALS) * len(_ENDINGS[style])
    return isqrt(words // len(SPLITS))
