"""Words that vary the articles; they belong to no fact and no question."""

from __future__ import annotations

FILLERS: dict[str, tuple[str, ...]] = {
    "acts": ("two", "three", "four", "five"),
    "adjective": ("little-known", "much-painted", "quiet", "remote", "storied", "windswept"),
    "animal": (
        *("badger", "crane", "heron", "lynx", "magpie", "marten", "beaver", "pike", "stag"),
        *("swan", "tortoise", "wolf"),
    ),
    "asset": ("archive", "country house", "delivery vans", "oldest building", "warehouse"),
    "climate": ("cool and wet", "dry and windy", "hot", "mild", "misty", "stormy", "very cold"),
    "colour": ("black and white", "dark green", "grey", "orange", "pale blue", "red", "violet"),
    "craft": ("bell founding", "bookbinding", "glass blowing", "lace making", "wood carving"),
    "crisis": (
        *("a bank failure", "a flood", "a long strike", "a price war", "an epidemic"),
        *("the lean years", "two hard winters"),
    ),
    "deed": (
        *("inherits a lighthouse and cannot sell it", "returns home under a false name"),
        *("walks across a frozen lake to settle a debt", "finds a map that shows no known place"),
        *("keeps a promise made to a stranger", "loses everything in a single night"),
        *("builds a clock that runs backwards", "hides a deserter from the authorities"),
        *("takes the blame for an accident", "waits for a ship that never comes"),
    ),
    "delay": ("a decade", "a generation", "forty years", "several decades", "twenty years"),
    "dish": ("barley soup", "honey bread", "pickled plums", "pear cider", "smoked eel"),
    "feast": ("the bees", "the first snow", "the harvest", "the lost fishermen", "the old bridge"),
    "genre": ("comic", "melancholy", "patriotic", "romantic", "short", "strange", "tragic"),
    "goods": ("amber", "copper", "flax", "fruit", "salt", "slate", "timber", "wine", "wool"),
    "habit": (
        *("a minute of silence every Monday", "marches at dawn", "meetings held standing up"),
        *("noon concerts", "planting a tree for every birth", "ringing a bell at closing time"),
    ),
    "hero": (
        *("a blind piano tuner", "a bankrupt miller", "a customs officer", "a deaf bell ringer"),
        *("a retired judge", "a runaway apprentice", "a ship's cook", "a village doctor"),
        *("an orphaned pharmacist", "an unlucky surveyor"),
    ),
    "instrument": ("a barrel organ", "a cello", "a clarinet", "a zither", "muted trumpets"),
    "landscape": ("flat", "hilly", "marshy", "mountainous", "rocky", "thickly wooded"),
    "languages": ("three", "four", "five", "six"),
    "merit": ("careful plot", "dry humour", "lively dialogue", "sense of place", "simple style"),
    "nth": ("only", "first", "second", "third", "fourth", "fifth"),
    "people": ("card players", "children", "farm workers", "mourners", "pilgrims", "skaters"),
    "side": ("east", "north", "south", "west"),
    "sight": (
        *("covered market", "crooked tower", "fountain", "half-ruined abbey", "salt store"),
        *("stone bridge", "sundial", "tiled gate", "water mill"),
    ),
    "size": ("large", "narrow", "round", "small", "very wide"),
    "subject": (
        *("botany", "classics", "geography", "history", "law", "mathematics", "medicine"),
        *("philosophy", "theology"),
    ),
    "things": ("beetles", "chess sets", "clocks", "keys", "maps", "old coins", "sea shells"),
    "things2": ("fans", "glass eyes", "musical boxes", "puppets", "ship models", "snuff boxes"),
    "trade": ("bakers", "clockmakers", "farmers", "fishermen", "millers", "printers", "weavers"),
    "trait": ("dry humour", "great patience", "unusual candour", "quick temper", "shyness"),
    "verdict": ("baffling", "cold", "far too long", "old-fashioned", "sentimental", "unconvincing"),
}
"""Alternatives for each placeholder of the layouts that is neither a fact nor a pronoun."""

FAME: dict[str, tuple[str, ...]] = {
    "novelist": ("long family sagas", "ironic portraits of small towns", "sea stories"),
    "film director": ("long takes and silent heroes", "low-budget comedies", "films about work"),
    "composer": ("choral music", "stern and inventive harmonies", "works for small orchestras"),
    "singer": ("a deep, smoky voice", "old ballads", "a single season of sold-out concerts"),
    "actor": ("villains with good manners", "comic supporting parts", "a whispering delivery"),
    "painter": ("winter landscapes", "portraits of tradespeople", "still lifes in grey"),
    "architect": ("plain brick buildings", "daring staircases", "glass roofs"),
    "politician": ("a land reform", "endless speeches", "a law on public libraries"),
    "mountaineer": ("solo climbs", "expeditions with very light equipment", "winter ascents"),
    "entrepreneur": ("bold investments", "an early eight-hour day", "thrift and good timing"),
    "football coach": ("attacking tactics", "strict training methods", "trust in young players"),
    "physicist": ("work on magnetism", "experiments with sound", "a theory of thin films"),
}
"""What the people of each profession are known for."""
