"""Questions that need no picture and no sound: counting, sums, spelling, greetings, and the rest of the world."""

from __future__ import annotations

from itertools import product

import numpy as np

from workbench.pocket.ask_pictures import UNKNOWN
from workbench.pocket.asking import WORDS, Shown, number, pick, sentence, task
from workbench.pocket.world import DIGITS

__all__ = ["off_world_questions"]

_OFF_WORLD = (
    "What is the capital of France?", "Who wrote Hamlet?", "How old is the universe?", "What is the weather today?",
    "Translate this to German.", "Write a poem about love.", "Who is the president?", "Solve the equation.",
    "What time is it?", "Can you write some Python code?", "What is the meaning of life?", "Where is Paris?",
    "How do I cook rice?", "Recommend me a book.", "What is quantum physics?", "How far is the moon?",
    "What is your favorite food?", "Tell me a joke.", "Who won the world cup?", "Is it going to rain tomorrow?",
    "What breed is this dog?", "How much does it cost?", "Summarize this article.", "What is the price of gold?",
    "Explain gravity.", "When was Rome founded?", "Who painted the Mona Lisa?", "How do planes fly?",
    "What is a neural network?", "Give me a recipe for soup.", "What is the population of China?", "Play some music.",
    "Which language is spoken in Brazil?", "How do I fix my car?", "What are the news?", "Book me a flight.",
    "Who is the person in the photo?", "What is the cat doing?", "What car is this?", "Read the text in the image.",
    "What is the man wearing?", "Which city is this?", "Who is singing?", "What instrument is playing?",
    "Why is the sky blue?", "How tall is Mount Everest?", "What is the largest animal?", "Define democracy.",
    "Who invented the telephone?", "What does HTML mean?", "How many people live in London?", "Is there life on Mars?",
    "What should I wear today?", "Write an email to my boss.", "What is the speed of light?", "Can dogs eat chocolate?",
    "How many days are in a year?", "What is the tallest building?", "Do you have feelings?", "Are you human?",
)  # fmt: skip
_OFF_WORLD_FORMS = (
    ("What is the {} of {}?", ("capital", "population", "language", "flag", "size", "president", "history"),
     ("France", "China", "Spain", "Brazil", "Egypt", "Japan", "Kenya", "Peru", "India", "Norway", "Poland", "Turkey")),
    ("Who {} {}?", ("wrote", "invented", "painted", "discovered", "composed", "directed", "founded", "built"),
     ("Hamlet", "the telephone", "the Mona Lisa", "penicillin", "the piano", "Rome", "Don Quixote", "the car", "Dracula",
      "the magic flute", "electricity", "the bible", "Apple", "the camera", "Moby Dick", "the bicycle")),
    ("How do I {} {}?", ("cook", "fix", "make", "clean", "sell", "paint", "find", "bake", "buy"),
     ("rice", "my car", "bread", "a cake", "soup", "the window", "a shirt", "potatoes", "a bike", "an egg", "a house")),
    ("What is the price of {}?", ("gold", "milk", "a house", "bread", "a ticket", "silver", "gas", "coffee", "sugar")),
    ("How {} is {}?", ("far", "old", "big", "heavy", "hot", "deep", "expensive", "fast"),
     ("the moon", "Mars", "the universe", "an elephant", "the ocean", "a train", "Everest", "the earth", "Berlin")),
    ("Why is {} {}?", ("the sky", "snow", "blood", "the sea", "the moon", "fire", "ice", "milk", "my coffee", "the sun"),
     ("blue", "white", "red", "cold", "hot", "salty", "bright", "round", "so big", "yellow", "bitter", "black")),
    ("What breed is {}?", ("this dog", "that dog", "my dog", "this horse", "the puppy", "this bird", "this cow")),
    ("Explain {}.", ("gravity", "quantum physics", "photosynthesis", "inflation", "democracy", "magnets", "the internet",
     "relativity", "taxes", "chess", "electricity", "history", "politics", "how rain forms", "the law")),
    ("Write {} {}.", ("a", "me a", "a short", "some", "a long"),
     ("poem about love", "email to my boss", "Python code", "song", "C code", "letter", "shell script", "essay on war",
      "report", "HTML", "SQL query", "music", "recipe", "speech", "Rust program")),
    ("What is {} {}?", ("the man", "the dog", "the girl", "the boy", "the cat", "he", "she", "the child", "the person"),
     ("wearing", "doing", "eating", "holding", "saying", "reading", "singing", "looking at", "thinking", "drinking")),
    ("Is it going to {} {}?", ("rain", "be sunny", "be cold", "be windy", "storm", "get warm", "freeze"),
     ("tomorrow", "today", "tonight", "on Monday", "next week", "this weekend", "in May")),
    ("{} {}.", ("Translate", "Summarize", "Rewrite", "Correct", "Improve", "Continue", "Print"),
     ("this to German", "this article", "the text", "my essay", "this book", "the news", "this page", "my letter")),
    ("Who is {}?", ("the president", "the queen", "that man", "she", "this actor", "in the photo", "singing", "the boss",
     "your favorite author", "the richest man", "Napoleon", "Einstein", "the girl on the right", "speaking")),
    ("When {}?", ("was Rome founded", "did the war end", "is Easter", "does the train leave", "was he born", "is dinner",
     "did dinosaurs live", "does summer begin", "was the first car built", "is my birthday", "do shops open")),
    ("Which {} is {}?", ("city", "country", "car", "song", "animal", "bird", "flower", "film", "book", "food"),
     ("this", "the best", "that", "the largest", "the oldest", "your favorite", "the most famous", "in the photo")),
    ("Can {} {}?", ("you", "dogs", "cats", "I", "people", "fish", "robots", "babies"),
     ("eat chocolate", "fly", "swim", "write code", "dance", "drive a car", "learn English", "play the guitar", "cook")),
    ("Recommend {}.", ("me a book", "a film", "a restaurant", "a hotel in Rome", "some music", "a good wine", "a game")),
    ("{} the {}.", ("Play", "Book", "Buy", "Open", "Close", "Call", "Send", "Order", "Turn on", "Read"),
     ("music", "flight", "door", "light", "doctor", "pizza", "file", "window", "news", "tickets", "email", "table")),
)  # fmt: skip
"""Question, and for each gap what fills it. Sixty sentences are learned by heart; these have to be told by their kind."""
_OFF_WORLD_HELD_OUT = (
    "What is the capital of Italy?", "Who wrote Faust?", "How do I cook pasta?", "What is the price of oil?",
    "Who invented the radio?", "Why is the grass green?", "What breed is this cat?", "Explain evolution.",
    "How far is the sun?", "Write some Java code.", "What is the woman wearing?", "Is it going to snow today?",
)  # fmt: skip


def off_world_questions(held_out: bool) -> tuple[str, ...]:
    """Questions about everything else: those trained on, or those kept for the card."""
    if held_out:
        return _OFF_WORLD_HELD_OUT
    formed = (form.format(*words) for form, *gaps in _OFF_WORLD_FORMS for words in product(*gaps))
    return tuple(question for question in dict.fromkeys((*_OFF_WORLD, *formed)) if question not in _OFF_WORLD_HELD_OUT)


@task("off-world", "none", 0.5)
def _off_world(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.3:
        return pick(rng, _OFF_WORLD), UNKNOWN
    form, *gaps = _OFF_WORLD_FORMS[int(rng.integers(len(_OFF_WORLD_FORMS)))]
    return form.format(*(pick(rng, gap) for gap in gaps)), UNKNOWN


@task("hello", "none", 0.12)
def _hello(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = rng.random()
    if kind < 0.4:
        return pick(rng, ("Hello!", "Hi!", "Hello there.", "Hey!", "Good morning!")), "Hello! Show me a picture."
    if kind < 0.7:
        return pick(rng, ("Who are you?", "What are you?", "What is your name?")), "I am a very small Gemma."
    asked = ("What can you do?", "What do you know?", "Help!", "How can you help me?")
    return pick(rng, asked), "I know shapes, digits and sounds."


# ---- small tasks of text


@task("counting", "none", 0.25)
def _counting(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.35:
        n = int(rng.integers(0, 9))
        after = rng.random() < 0.6
        base, said = (DIGITS[n], DIGITS[n + 1]) if after else (DIGITS[n + 1], DIGITS[n])
        word = "after" if after else "before"
        asked: tuple[str, ...] = (f"What comes {word} {base}?", f"Which number comes {word} {base}?", f"Which digit is {word} {base}?")  # fmt: skip
        return pick(rng, asked), sentence(said)
    first, last = sorted(rng.choice(10, 2, replace=False).tolist())
    if rng.random() < 0.45:
        first, last = (1, max(last, 2)) if rng.random() < 0.7 else (0, last)
        asked = (f"Count to {DIGITS[last]}.", f"Count up to {DIGITS[last]}.", f"Can you count to {DIGITS[last]}?")
        first = 1
    else:
        asked = (f"Count from {DIGITS[first]} to {DIGITS[last]}.", f"Count up from {DIGITS[first]} to {DIGITS[last]}.")
    numbers = list(range(first, last + 1))
    if rng.random() < 0.25:
        numbers.reverse()
        asked = (f"Count down from {DIGITS[numbers[0]]} to {DIGITS[numbers[-1]]}.", f"Count backwards from {DIGITS[numbers[0]]} to {DIGITS[numbers[-1]]}.")  # fmt: skip
    return pick(rng, asked), sentence(", ".join(DIGITS[n] for n in numbers))


@task("sums", "none", 0.45)
def _sums(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    total = int(rng.integers(0, 10))
    part = int(rng.integers(0, total + 1))
    plus = rng.random() < 0.6
    x, y, result = (part, total - part, total) if plus else (total, part, total - part)
    if rng.random() < 0.35:
        sign = "+" if plus else "-"
        asked: tuple[str, ...] = (f"{x} {sign} {y}", f"{x} {sign} {y} =", f"What is {x} {sign} {y}?", f"{x}{sign}{y}=", f"{x}{sign}{y}")  # fmt: skip
        return pick(rng, asked), number(result)
    first, second = DIGITS[x], DIGITS[y]
    if plus:
        asked = (f"What is {first} plus {second}?", f"{sentence(first)[:-1]} plus {second}?", f"How much is {first} and {second}?",
                 f"Add {first} and {second}.", f"What is the sum of {first} and {second}?")  # fmt: skip
    else:
        asked = (f"What is {first} minus {second}?", f"{sentence(first)[:-1]} minus {second}?", f"How much is {first} minus {second}?",
                 f"Take {second} from {first}.", f"Subtract {second} from {first}.")  # fmt: skip
    return pick(rng, asked), number(result)


@task("spelling", "none", 0.25)
def _spelling(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    word = pick(rng, WORDS)
    if rng.random() < 0.75:
        asked: tuple[str, ...] = (f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}.", f"How is {word} spelled?",
                 f"Can you spell {word}?", f'Spell "{word}".')  # fmt: skip
        return pick(rng, asked), " ".join(word.upper()) + "."
    asked = (f"What is the first letter of {word}?", f"Which letter does {word} begin with?", f"What letter does {word} start with?")  # fmt: skip
    return pick(rng, asked), f"{word[0].upper()}."
