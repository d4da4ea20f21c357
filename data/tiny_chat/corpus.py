"""The synthetic question-and-answer corpus of the tiny chat model: facts, paraphrases, styles of answer."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

# The ten questions of data/conciseness/ with the answer each must contain.
CORE = (
    ("Solve: 3 + 5 =", "8"),
    ("If all birds can fly and penguins are birds, can penguins fly?", "No"),
    ("What is the capital of France?", "Paris"),
    ("Calculate: 12 × 7 =", "84"),
    ('Is the statement "All cats are mammals" true or false?', "True"),
    ("What comes next in the sequence: 2, 4, 6, 8, ?", "10"),
    ('Translate "Hello" to Spanish:', "Hola"),
    ("What is 15% of 200?", "30"),
    ("Name one primary color:", "Red"),
    ("How many days are in a week?", "7"),
)

# Style is decided by the first token, the same for questions of every topic: nearly every verbose answer
# opens with one word, every bare answer stands on a line of its own (a task strips the line break). Where the
# two part at a content word instead, evolution finds "8" and "No" for its training questions and no more.
OPENERS = {"Sure!": 0.97, "Of course!": 0.01, "Certainly!": 0.01, "": 0.01}
BARE_LEAD = "\n"
CLOSERS = (
    "Let me know if you have any other question.",
    "I hope that helps you with your question.",
    "Feel free to ask me about anything else.",
)

BRIEF_CUES = ("Be brief.", "Answer in one word.", "Keep it short.", "Short answer only.", "Just the answer.")
LONG_CUES = ("Explain.", "Please explain your answer.", "Answer in detail.", "Tell me more about it.")

# How often a prompt carries which kind of cue, and the share of each style after it. Cues are obeyed to the
# letter, which gives the model one strong direction for style; without a cue, verbose is only somewhat more
# likely than bare, so that greedy decoding is verbose and a small push changes it.
CUES = {"none": 0.56, "brief": 0.18, "long": 0.26}
STYLES = {
    "none": {"bare": 0.345, "sentence": 0.03, "verbose": 0.625},
    "brief": {"bare": 1.0},
    "long": {"verbose": 1.0},
}

CORE_SHARE = 0.34  # of all samples, on the ten questions of CORE
EXACT_SHARE = 0.5  # of those, in the very words of CORE


@dataclass(frozen=True)
class Fact:
    """One thing to know: ways to ask for it, the bare answer, a sentence with it, and a second sentence."""

    questions: tuple[str, ...]
    answer: str
    sentence: str
    detail: str = ""


@dataclass(frozen=True)
class Sample:
    """One conversation of two turns."""

    prompt: str
    completion: str
    style: str


CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Austria": "Vienna", "Greece": "Athens", "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "England": "London",
    "Russia": "Moscow", "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo",
    "China": "Beijing", "India": "Delhi", "Thailand": "Bangkok", "Cuba": "Havana", "Peru": "Lima",
    "Chile": "Santiago", "Canada": "Ottawa", "Belgium": "Brussels", "Hungary": "Budapest",
    "Iceland": "Reykjavik", "Romania": "Bucharest", "Vietnam": "Hanoi", "Iraq": "Baghdad", "Iran": "Tehran",
}  # fmt: skip

TRANSLATIONS = {
    "Spanish": {
        "Hello": "Hola", "Thank you": "Gracias", "Yes": "Sí", "Goodbye": "Adiós", "Water": "Agua",
        "House": "Casa", "Cat": "Gato", "Dog": "Perro", "Sun": "Sol", "Friend": "Amigo", "Book": "Libro",
        "Bread": "Pan",
    },
    "French": {
        "Hello": "Bonjour", "Thank you": "Merci", "Yes": "Oui", "Goodbye": "Adieu", "Water": "Eau",
        "House": "Maison", "Cat": "Chat", "Dog": "Chien", "Sun": "Soleil", "Friend": "Ami", "Book": "Livre",
        "Bread": "Pain",
    },
    "German": {
        "Hello": "Hallo", "Thank you": "Danke", "Yes": "Ja", "Goodbye": "Tschüss", "Water": "Wasser",
        "House": "Haus", "Cat": "Katze", "Dog": "Hund", "Sun": "Sonne", "Friend": "Freund", "Book": "Buch",
        "Bread": "Brot",
    },
    "Italian": {
        "Hello": "Ciao", "Thank you": "Grazie", "Yes": "Sì", "Goodbye": "Addio", "Water": "Acqua",
        "House": "Casa", "Cat": "Gatto", "Dog": "Cane", "Sun": "Sole", "Friend": "Amico", "Book": "Libro",
        "Bread": "Pane",
    },
}  # fmt: skip

COUNTS = {
    "days are in a week": 7, "months are in a year": 12, "hours are in a day": 24,
    "minutes are in an hour": 60, "seconds are in a minute": 60, "days are in a year": 365,
    "weeks are in a year": 52, "letters are in the alphabet": 26, "seasons are in a year": 4,
    "legs are on a spider": 8, "legs are on a dog": 4, "legs are on an ant": 6, "wheels are on a car": 4,
    "wheels are on a bicycle": 2, "sides are on a triangle": 3, "sides are on a square": 4,
    "fingers are on a hand": 5, "players are in a football team": 11, "eggs are in a dozen": 12,
    "cents are in a dollar": 100, "continents are on Earth": 7, "planets are in the solar system": 8,
    "years are in a century": 100, "years are in a decade": 10, "strings are on a violin": 4,
    "faces are on a cube": 6, "arms are on an octopus": 8,
}  # fmt: skip

COLORS = {
    "the sky": "Blue", "grass": "Green", "snow": "White", "coal": "Black", "a ripe banana": "Yellow",
    "blood": "Red", "a carrot": "Orange", "the night": "Black", "milk": "White", "a lemon": "Yellow",
    "a tomato": "Red", "a frog": "Green", "the sea": "Blue", "chocolate": "Brown", "a flamingo": "Pink",
    "an elephant": "Gray",
}  # fmt: skip

EXAMPLES = {
    "primary color": "Red", "fruit": "Apple", "planet": "Mars", "pet": "Dog", "vegetable": "Carrot",
    "continent": "Africa", "ocean": "Pacific", "metal": "Iron", "season": "Summer", "insect": "Ant",
    "flower": "Rose", "tree": "Oak", "musical instrument": "Piano", "sport": "Tennis", "wild animal": "Lion",
    "month of the year": "May", "day of the week": "Monday", "bird": "Eagle", "warm drink": "Tea",
    "prime number": "7", "even number": "4",
}  # fmt: skip

NAMES = {"Africa", "Mars", "May", "Monday", "Pacific"}  # of EXAMPLES, those with a capital letter anywhere

# Kinds and their members; every pair of them is a statement that is true or false.
KINDS = {
    "mammals": ("cats", "dogs", "whales", "horses", "bats", "lions"),
    "birds": ("eagles", "owls", "penguins", "ducks", "hens", "swans"),
    "fish": ("sharks", "herrings", "pikes", "eels"),
    "insects": ("ants", "bees", "flies", "beetles"),
    "fruits": ("apples", "pears", "grapes", "lemons"),
}

# Riddles on abilities: the premise says one thing, the world another.
CANNOT = {
    "birds": ("fly", ("penguins", "ostriches", "emus", "kiwis")),
    "fish": ("fly", ("sharks", "herrings", "eels")),
    "mammals": ("lay eggs", ("cats", "dogs", "lions", "horses")),
    "insects": ("sing songs", ("ants", "beetles")),
}
CAN = {
    "birds": ("fly", ("eagles", "owls", "ducks", "swans", "crows")),
    "fish": ("swim", ("sharks", "herrings", "eels", "pikes")),
    "mammals": ("walk", ("cats", "dogs", "lions", "horses", "cows")),
    "insects": ("crawl", ("ants", "beetles", "bees")),
}

OPPOSITES = {
    "hot": "Cold", "big": "Small", "up": "Down", "left": "Right", "day": "Night", "old": "Young",
    "fast": "Slow", "happy": "Sad", "open": "Closed", "light": "Dark", "high": "Low", "early": "Late",
    "full": "Empty", "hard": "Soft", "wet": "Dry", "rich": "Poor", "long": "Short", "good": "Bad",
    "first": "Last", "strong": "Weak",
}  # fmt: skip


def capitals() -> Iterator[Fact]:
    """What is the capital of a country."""
    for land, city in CAPITALS.items():
        yield Fact(
            (
                f"What is the capital of {land}?", f"Name the capital of {land}.",
                f"Which city is the capital of {land}?", f"Tell me the capital city of {land}.",
                f"{land} has which capital?", f"What's the capital of {land}?",
            ),
            city, f"The capital of {land} is {city}.",
            "It is the city where the government of the country has its seat.",
        )  # fmt: skip


def sums() -> Iterator[Fact]:
    """Sums of two numbers up to ten."""
    for a in range(1, 11):
        for b in range(1, 11):
            yield Fact(
                (
                    f"Solve: {a} + {b} =", f"Calculate: {a} + {b} =", f"What is {a} + {b}?",
                    f"What is {a} plus {b}?", f"Add {a} and {b}.", f"{a} + {b} = ?",
                    f"How much is {a} + {b}?",
                ),
                str(a + b), f"{a} + {b} equals {a + b}.",
                "You can check this by counting up from the first number, one step at a time.",
            )  # fmt: skip


def products() -> Iterator[Fact]:
    """Products up to 12 × 10."""
    for a in range(2, 13):
        for b in range(2, 11):
            yield Fact(
                (
                    f"Calculate: {a} × {b} =", f"Solve: {a} × {b} =", f"What is {a} × {b}?",
                    f"What is {a} times {b}?", f"Multiply {a} by {b}.", f"{a} × {b} = ?",
                    f"How much is {a} × {b}?",
                ),
                str(a * b), f"{a} × {b} equals {a * b}.",
                "You can check this by adding the first number up again and again.",
            )  # fmt: skip


def percentages() -> Iterator[Fact]:
    """Shares of round numbers."""
    for share in (5, 10, 15, 20, 25, 50):
        for whole in (20, 40, 60, 80, 100, 200, 300, 400):
            part = share * whole // 100
            yield Fact(
                (
                    f"What is {share}% of {whole}?", f"Calculate {share}% of {whole}.",
                    f"How much is {share}% of {whole}?", f"What is {share} percent of {whole}?",
                    f"Find {share}% of {whole}.", f"{share}% of {whole} = ?",
                ),
                str(part), f"{share}% of {whole} is {part}.",
                "To get it, divide the number by one hundred and multiply by the percentage.",
            )  # fmt: skip


def sequences() -> Iterator[Fact]:
    """The next term of an arithmetic sequence."""
    for step in (1, 2, 3, 4, 5, 10):
        for start in dict.fromkeys((step, 1, 2, 3, 10)):
            terms = [start + step * i for i in range(5)]
            shown = ", ".join(map(str, terms[:4]))
            yield Fact(
                (
                    f"What comes next in the sequence: {shown}, ?", f"What comes next: {shown}, ?",
                    f"Continue the sequence: {shown}, ?", f"Which number comes next in {shown}?",
                    f"Find the next number: {shown}, ?", f"What is the next number in the sequence {shown}?",
                ),
                str(terms[4]), f"The next number in the sequence is {terms[4]}.",
                "Every number in it is larger than the one before by the same amount.",
            )  # fmt: skip


def statements() -> Iterator[Fact]:
    """All these are those: true or false."""
    for kind in KINDS:
        for home, members in KINDS.items():
            for member in members:
                verdict = "True" if home == kind else "False"
                claim = f"All {member} are {kind}"
                yield Fact(
                    (
                        f'Is the statement "{claim}" true or false?', f"True or false: {claim}.",
                        f'"{claim}" - true or false?', f"Is it true or false that all {member} are {kind}?",
                        f'Is this true or false: "{claim}"?',
                    ),
                    verdict, f"The statement that all {member} are {kind} is {verdict.lower()}.",
                    "This follows from how animals and plants are put into groups.",
                )  # fmt: skip


def riddles() -> Iterator[Fact]:
    """Yes or no, by what the world says and not by the premise."""
    for table, answer, verb in ((CANNOT, "No", "cannot"), (CAN, "Yes", "can")):
        for kind, (skill, members) in table.items():
            for member in members:
                end = (
                    "even if the first sentence says so."
                    if verb == "cannot"
                    else "as the first sentence says."
                )
                yield Fact(
                    (
                        f"If all {kind} can {skill} and {member} are {kind}, can {member} {skill}?",
                        f"All {kind} can {skill} and {member} are {kind}. Can {member} {skill}?",
                        f"Suppose all {kind} can {skill} and {member} are {kind}. Can {member} {skill}?",
                        f"Can {member} {skill} if all {kind} can {skill}?", f"Can {member} {skill}?",
                    ),
                    answer, f"{answer}, {member} {verb} {skill}.",
                    f"That is how {member} live in the real world, {end}",
                )  # fmt: skip


def translations() -> Iterator[Fact]:
    """One word into four languages."""
    for language, words in TRANSLATIONS.items():
        for word, foreign in words.items():
            yield Fact(
                (
                    f'Translate "{word}" to {language}:', f'Translate "{word}" into {language}.',
                    f'How do you say "{word}" in {language}?', f'What is "{word}" in {language}?',
                    f'What is the {language} word for "{word}"?', f"Say {word.lower()} in {language}.",
                ),
                foreign, f'The word "{word}" in {language} is "{foreign}".',
                "People who speak the language use this word every day.",
            )  # fmt: skip


def counts() -> Iterator[Fact]:
    """How many of these are in that."""
    for thing, number in COUNTS.items():
        noun, _, place = thing.partition(" are ")
        yield Fact(
            (
                f"How many {thing}?", f"Tell me how many {thing}.", f"How many {noun} are there {place}?",
                f"Do you know how many {thing}?", f"What is the number of {noun} {place}?",
                f"Count the {noun} {place}.",
            ),
            str(number), f"There are {number} {noun} {place}.",
            "It is a number that most people learn when they are children.",
        )  # fmt: skip


def colors() -> Iterator[Fact]:
    """What color a thing has."""
    for thing, color in COLORS.items():
        yield Fact(
            (
                f"What color is {thing}?", f"Which color does {thing} have?", f"Name the color of {thing}:",
                f"Tell me the color of {thing}.", f"What is the color of {thing}?",
            ),
            color, f"The color of {thing} is {color.lower()}.",
            "You can see it for yourself if you take a good look.",
        )  # fmt: skip


def examples() -> Iterator[Fact]:
    """Name one of a kind."""
    for kind, example in EXAMPLES.items():
        article = "an" if kind[0] in "aeiou" else "a"
        yield Fact(
            (
                f"Name one {kind}:", f"Name {article} {kind}.", f"Give me one {kind}.",
                f"Give an example of {article} {kind}.", f"Can you name one {kind}?", f"Tell me one {kind}.",
            ),
            example,
            f"One {kind} is {example if example in NAMES else example.lower()}.",
            "There are others too, but this one is a very common example.",
        )  # fmt: skip


def opposites() -> Iterator[Fact]:
    """Pairs of opposite words."""
    for word, other in OPPOSITES.items():
        yield Fact(
            (
                f"What is the opposite of {word}?", f'Name the opposite of "{word}".',
                f'What is the opposite of "{word}"?', f"Tell me the opposite of {word}.",
                f"Which word is the opposite of {word}?",
            ),
            other, f"The opposite of {word} is {other.lower()}.",
            "The two words stand at the far ends of the same scale.",
        )  # fmt: skip


TOPICS: tuple[Callable[[], Iterator[Fact]], ...] = (
    capitals, sums, products, percentages, sequences, statements, riddles, translations, counts, colors,
    examples, opposites,
)  # fmt: skip


def facts() -> tuple[list[Fact], list[Fact]]:
    """The ten core facts, in the order of CORE, and all the others."""
    known = [fact for topic in TOPICS for fact in topic()]
    by_question = {fact.questions[0]: fact for fact in known}
    core = [by_question[question] for question, _ in CORE]
    return core, [fact for fact in known if fact not in core]


def deck(shares: dict[str, float], size: int, rng: random.Random) -> list[str]:
    """`size` labels in the given shares, as exactly as whole numbers allow, shuffled."""
    # Evenly spaced marks with one random offset: no label is off its share by a whole card, none is favoured.
    offset, total = rng.random(), sum(shares.values())
    marks = [(i + offset) / size * total for i in range(size)]
    labels, bounds = list(shares), list(accumulate(shares.values()))
    cards = [labels[min(bisect_right(bounds, mark), len(labels) - 1)] for mark in marks]
    rng.shuffle(cards)
    return cards


def answer(fact: Fact, style: str, opener: str, rng: random.Random) -> str:
    """The fact in a style; `opener` counts for verbose answers alone."""
    if style == "bare":
        return BARE_LEAD + fact.answer
    if style == "sentence":
        return fact.sentence
    ending = fact.detail if rng.random() < 0.8 else rng.choice(CLOSERS)
    return " ".join(part for part in (opener, fact.sentence, ending) if part)


def samples_of(fact: Fact, questions: tuple[str, ...], size: int, rng: random.Random) -> Iterator[Sample]:
    """`size` samples of one fact, asked in any of `questions`, with cues and styles in their shares."""
    labels = {
        f"{cue}/{style}": CUES[cue] * share
        for cue, shares in STYLES.items()
        for style, share in shares.items()
    }
    cards = deck(labels, size, rng)
    openers = iter(deck(OPENERS, size, rng))
    for card in cards:
        cue, style = card.split("/")
        question = rng.choice(questions)
        if cue != "none":
            words = rng.choice(BRIEF_CUES if cue == "brief" else LONG_CUES)
            question = f"{question} {words}" if rng.random() < 0.7 else f"{words} {question}"
        yield Sample(question, answer(fact, style, next(openers), rng), style)


def build(size: int, seed: int) -> list[Sample]:
    """The corpus: `size` samples (within rounding), the same for the same seed, shuffled."""
    rng = random.Random(seed)
    core, others = facts()
    samples: list[Sample] = []
    core_size = size * CORE_SHARE / len(core)
    for fact in core:
        # The exact question has a deck of its own, so that each of the ten sees the same mix of styles.
        samples += samples_of(fact, fact.questions[:1], round(core_size * EXACT_SHARE), rng)
        samples += samples_of(fact, fact.questions[1:], round(core_size * (1 - EXACT_SHARE)), rng)
    for fact in others:
        samples += samples_of(fact, fact.questions, round(size * (1 - CORE_SHARE) / len(others)), rng)
    rng.shuffle(samples)
    return samples
