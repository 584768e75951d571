"""The English of the articles: sentence templates for each kind.

A layout is a lead, body sentences in a slightly varied order, and last sentences. A sentence is
a tuple of alternatives that state the same facts. Placeholders in braces are

* relations of the subject (``{birthplace}``): the sentence is left out where one is absent;
* ``{name}``, ``{noun}``, ``{profession}`` (with its article), ``{fame}``, ``{was}`` (is or was),
  ``{S}`` / ``{s}`` (subject, at the start / inside), ``{P}`` / ``{p}`` (possessive);
* words of :data:`FILLERS`, which belong to no fact.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_env.worlds.encyclopaedia.schema import COMPANIES

Sentence = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The sentences of the articles of one kind."""

    lead: Sentence
    body: tuple[Sentence, ...]
    last: tuple[Sentence, ...] = ()


_PERSON = Layout(
    lead=(
        "{name} {was} {profession} known for {fame}.",
        "{name} {was} {profession}, best remembered for {fame}.",
        "{name} {was} {profession} whose reputation rests on {fame}.",
    ),
    body=(
        (
            "{S} was born on {birth_date} in {birthplace}.",
            "{S} was born in {birthplace} on {birth_date}, the {nth} child in a family of {trade}.",
            "Born in {birthplace} on {birth_date}, {s} grew up among {trade}.",
        ),
        (
            "{S} studied {subject} at {university}.",
            "{S} was educated at {university}, where {s} read {subject}.",
            "As a student at {university}, {s} gave up {subject} within a year.",
        ),
        (
            "{P} teacher was {teacher}.",
            "{S} was taught by {teacher}, whose influence {s} often acknowledged.",
            "For some years {s} was a pupil of {teacher}.",
        ),
        (
            "{S} married {spouse}.",
            "{S} was married to {spouse}.",
            "Abroad {s} met and married {spouse}.",
        ),
        (
            "{S} later settled in {home}.",
            "In middle age {s} settled in {home}.",
            "After much travelling {s} settled in {home}.",
        ),
        (
            "{S} collected {things}, and friends spoke of {p} {trait}.",
            "Visitors remembered {p} {trait} and a house full of {things}.",
            "{P} letters, mostly about {things}, show {trait}.",
        ),
        (
            "A short memoir deals with {p} love of {things}.",
            "{S} spoke {languages} languages.",
            "Recognition came only after {delay}.",
        ),
    ),
    last=(
        (
            "{S} died in {death_place} on {death_date}.",
            "{S} died on {death_date} in {death_place}, after a short illness.",
            "On {death_date} {s} died in {death_place}.",
        ),
    ),
)

_COMPANY = Layout(
    lead=(
        "{name} is a {noun} founded in {founded} by {founder}.",
        "{name} is a {noun}; it was founded by {founder} in {founded}.",
    ),
    body=(
        ("{S} has its headquarters in {headquarters}.", "Its headquarters are in {headquarters}."),
        ("{S} employs {employees} people.", "At the last count {s} employed {employees} people."),
        (
            "Its best-known chief executive was {chief}.",
            "Under {chief}, its best-known chief executive, it grew quickly.",
        ),
        (
            "{S} survived {crisis} by selling its {asset}.",
            "After {crisis} it moved into smaller premises and sold its {asset}.",
        ),
        (
            "Its emblem, a {animal}, has hardly changed since the early days.",
            "The firm is known for {habit} and for the {animal} on its emblem.",
            "Staff still speak of {habit}, which outsiders find hard to explain.",
        ),
    ),
)

LAYOUTS: dict[str, Layout] = {
    "country": Layout(
        lead=(
            "{name} is a {landscape} country with its capital at {capital}.",
            "{name} is a {landscape} country; its capital is {capital}.",
        ),
        body=(
            (
                "It has {population} inhabitants and covers {area} square kilometres.",
                "It covers {area} square kilometres and has a population of {population}.",
            ),
            (
                "The country became independent in {independence}, and its first president was "
                "{president}.",
                "Independent since {independence}, it had {president} as its first president.",
            ),
            (
                "Its economy rests on {goods} and {craft}.",
                "It exports {goods}, and its {craft} has a long tradition.",
            ),
            ("The climate is {climate}.", "Most of the year the weather is {climate}."),
        ),
    ),
    "region": Layout(
        lead=(
            "{name} is a region in the {side} of {country}.",
            "{name} is one of the regions of {country}, in the {side} of the country.",
        ),
        body=(
            (
                "Its administrative seat is {seat}.",
                "The administrative seat of the region is {seat}.",
            ),
            ("It covers {area} square kilometres.", "Its area is {area} square kilometres."),
            (
                "The land is {landscape}, and most people live from {goods}.",
                "Much of it is {landscape}; the villages live from {goods} and {craft}.",
            ),
            (
                "Every autumn a fair is held in honour of {feast}.",
                "It is known for its {dish} and for a fair in honour of {feast}.",
            ),
            ("The climate is {climate}.", "Most of the year the weather is {climate}."),
        ),
    ),
    "city": Layout(
        lead=("{name} is a city in {region}.", "{name} is a {adjective} city in {region}."),
        body=(
            (
                "It has {population} inhabitants.",
                "At the last census the city had {population} inhabitants.",
                "Its population is {population}.",
            ),
            (
                "It was first mentioned in a document of {recorded}.",
                "The first document that mentions it dates from {recorded}.",
            ),
            ("{S} stands on {river}.", "{S} stands on the banks of {river}."),
            ("Its longest-serving mayor was {mayor}.", "{mayor} was its longest-serving mayor."),
            (
                "The old town is known for its {sight} and its {dish}.",
                "Travellers come for the {sight} and the {dish}.",
                "A {sight} and a long tradition of {craft} draw visitors.",
            ),
            (
                "The market once lived from {goods}.",
                "{goods} made it rich, and {crisis} made it poor again.",
                "A fire destroyed most houses, and only the {sight} in the main square survived.",
            ),
        ),
    ),
    "river": Layout(
        lead=(
            "The {name} is a river that rises on {source}.",
            "The {name} is a {adjective} river; it rises on {source}.",
        ),
        body=(
            ("It is {length} kilometres long.", "The river is {length} kilometres long."),
            ("It flows into {mouth}.", "At the end of its course it flows into {mouth}."),
            (
                "Its valley is {landscape} and known for {goods}.",
                "It passes through {landscape} country and was long used to carry {goods}.",
            ),
            (
                "Floods are common in early spring and have moved its bed more than once.",
                "Anglers value it for its trout, and a {animal} gave its main bend a name.",
            ),
            (
                "A {sight} marks the place where travellers used to wade across.",
                "Old maps draw it too wide, and several of its mills now stand empty.",
            ),
        ),
    ),
    "mountain": Layout(
        lead=("{name} is a mountain in {region}.", "{name} is a {adjective} mountain in {region}."),
        body=(
            ("It is {height} metres high.", "The summit is {height} metres high."),
            (
                "It was first climbed in {ascent} by {climber}.",
                "{climber} first climbed it in {ascent}.",
                "The first ascent was made in {ascent}, when {climber} climbed it from the {side}.",
            ),
            (
                "Its slopes are {landscape}, and shepherds tell of a {animal} that guards the top.",
                "Below the tree line there are huts that were once used to store {goods}.",
            ),
            (
                "The usual route from the {side} takes two days and passes a {sight}.",
                "A path leads up from the {side}; it is closed in winter.",
            ),
        ),
    ),
    "university": Layout(
        lead=(
            "{name} is a university in {city}, founded in {founded}.",
            "{name} is a university founded in {founded} and based in {city}.",
        ),
        body=(
            ("{S} has {students} students.", "Some {students} students are enrolled."),
            (
                "Its longest-serving rector was {rector}.",
                "{rector} was its longest-serving rector.",
            ),
            (
                "It is best known for its courses in {subject} and its collection of {things}.",
                "The library holds rare books on {subject} and a collection of {things}.",
            ),
            (
                "Its arms show a {animal}, and students still observe {habit}.",
                "During {crisis} lectures were held in private houses.",
            ),
            (
                "The main building has a {sight} in its courtyard.",
                "Its oldest chair, in {subject}, stood vacant for {delay}.",
            ),
        ),
    ),
    "museum": Layout(
        lead=(
            "The {name} is a museum in {city}.",
            "The {name} is a museum of art and history in {city}.",
        ),
        body=(
            (
                "The architect of its building, opened in {opened}, was {architect}.",
                "It opened in {opened}; its architect was {architect}.",
            ),
            (
                "Beside pictures it shows {things} and {things2}.",
                "Its rooms are arranged by colour, from {things} to {things2}.",
            ),
            ("In the garden there is a {sight}.", "Its café is known for {dish}."),
            (
                "Part of the collection was lost during {crisis}.",
                "A stone {animal} guards the entrance.",
            ),
        ),
    ),
    "club": Layout(
        lead=(
            "{name} is a football club based in {city} and founded in {founded}.",
            "{name} is a football club from {city}; it was founded in {founded}.",
        ),
        body=(
            (
                "Its ground holds {capacity} spectators.",
                "Home matches are played on a ground for {capacity} spectators.",
            ),
            (
                "Its most successful coach was {coach}.",
                "The club's most successful coach was {coach}.",
            ),
            (
                "The players wear {colour} and are nicknamed after a {animal}.",
                "The badge shows a {animal} on {colour}.",
            ),
            (
                "Supporters are known for {habit}.",
                "The club went bankrupt during {crisis} and was revived by its supporters.",
            ),
        ),
    ),
    "person": _PERSON,
    "novel": Layout(
        lead=(
            "{name} is a novel by {author}, published in {published}.",
            "{name} is a novel written by {author} and first published in {published}.",
        ),
        body=(
            ("Its publisher was {publisher}.", "It was brought out by the publisher {publisher}."),
            ("The story takes place in {setting}.", "It is set in {setting}."),
            ("The book is dedicated to {dedicatee}.", "It bears a dedication to {dedicatee}."),
            (
                "It tells of {hero} who {deed}.",
                "The plot turns on {hero} who {deed}.",
                "Its hero, {hero}, {deed}.",
            ),
            (
                "Reviewers praised its {merit} but found the ending {verdict}.",
                "It sold badly until a cheap edition appeared, and many find it {verdict}.",
                "A chapter about {things} was cut from later editions.",
            ),
        ),
    ),
    "film": Layout(
        lead=(
            "{name} is a film directed by {director} and released in {released}.",
            "{name} is a {genre} film directed by {director}, released in {released}.",
        ),
        body=(
            ("It was produced by {studio}.", "The film was produced by the studio {studio}."),
            ("The music was written by {score}.", "{score} wrote the music."),
            ("The leading role is played by {lead}.", "{lead} plays the leading role."),
            ("It is based on {basis}.", "The script is based on {basis}."),
            ("It lasts {runtime} minutes.", "The film runs for {runtime} minutes."),
            ("It tells of {hero} who {deed}.", "At its centre is {hero} who {deed}."),
            (
                "Critics admired the photography but called the ending {verdict}.",
                "Most of the scenes were shot at night, near a {sight}.",
            ),
        ),
    ),
    "song": Layout(
        lead=(
            "{name} is a song recorded by {singer} and released in {issued}.",
            "{name} is a {genre} song by {singer}, recorded and released in {issued}.",
        ),
        body=(
            ("It was written by {songwriter}.", "The songwriter was {songwriter}."),
            ("It appeared on the label {label}.", "The record was issued by the label {label}."),
            (
                "The lyrics describe {theme} on a {climate} day.",
                "Its lyrics describe the streets of {theme}.",
            ),
            (
                "The melody is played on {instrument} and returns at half speed at the end.",
                "A solo on {instrument} opens the record.",
            ),
            (
                "Radio stations at first found it {verdict}, and it became popular after {delay}.",
                "It is often sung at weddings, although listeners have called it {verdict}.",
            ),
            (
                "Its refrain mentions a {animal}, which nobody has explained.",
                "The other side of the record is a piece about {things}.",
            ),
        ),
    ),
    "painting": Layout(
        lead=(
            "{name} is a painting by {painter}, completed in {painted}.",
            "{name} is a {size} painting by {painter} that was completed in {painted}.",
        ),
        body=(
            ("It hangs in {museum}.", "The painting hangs in {museum}."),
            (
                "It shows {view} behind a group of {people}.",
                "It shows a group of {people} at the foot of {view}.",
            ),
            (
                "A {animal} is hidden in the lower left corner.",
                "The colours, mostly {colour}, were mixed with fine sand.",
            ),
            (
                "Infrared pictures revealed {things} under the paint.",
                "It was cut at the {side} edge during {crisis}.",
            ),
            (
                "At its first exhibition it was thought {verdict}.",
                "Copies of it hung in many schools, though teachers found it {verdict}.",
            ),
        ),
    ),
    "opera": Layout(
        lead=(
            "{name} is an opera by {composer}.",
            "{name} is an opera in {acts} acts composed by {composer}.",
        ),
        body=(
            (
                "It was first performed in {premiered} in {premiere}.",
                "It was first performed in {premiere} in {premiered}.",
            ),
            ("The libretto was written by {librettist}.", "Its libretto is by {librettist}."),
            ("It tells of {hero} who {deed}.", "The action concerns {hero} who {deed}."),
            (
                "The overture gives the main theme to {instrument}.",
                "An aria accompanied by {instrument} is often heard in concerts.",
            ),
            (
                "The first audience found it {verdict}, and it was not revived for {delay}.",
                "Stage designers dread its last scene, which needs a live {animal}.",
            ),
        ),
    ),
    **dict.fromkeys(COMPANIES, _COMPANY),
}
"""The layout of each kind."""
