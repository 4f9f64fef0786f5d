"""Sentences for synthesis, by language and kind, from packages: example sentences and words (WordNet), pages of help (GNOME), command
templates of a smart home (home-assistant-intents), and made-up digits, letters and names.

A twentieth of the sentences, by their letters, is for tests.
"""

import hashlib
import html
import json
import random
import re

from .paths import PACKAGES

# Shares of the utterances in a shard: languages of the synthesiser, and Chinese with languages that it was not trained on.
OWN = {"en": 60, "es": 9, "fr": 8, "it": 8, "pt": 8, "hi": 7}
BORROWED = {"de": 28, "nl": 18, "zh": 16, "pl": 12, "ru": 10, "sv": 10, "cs": 6}
HELP = {"es": "es", "fr": "fr", "it": "it", "pt": "pt_BR", "hi": "hi", "de": "de", "nl": "nl", "pl": "pl", "ru": "ru", "sv": "sv", "cs": "cs", "zh": "zh_CN"}  # folders of GNOME's help
INTENTS = {"en": "en", **{language: folder.replace("_", "-") for language, folder in HELP.items()}}
SCRIPTS = {"ru": "[А-Яа-яЁё]", "zh": "[\u4e00-\u9fff]"}  # languages whose sentences may not have Latin letters, and a letter of theirs
SHORTEST, LONGEST = {"zh": 7}, {"zh": 40}  # letters of a sentence of help
KINDS = {"en": {"prose": 45, "command": 25, "word": 12, "digits": 8, "names": 6, "letters": 4}}
OTHER_KINDS = {"prose": 60, "command": 40}
COMMANDS = 4000  # per language
TEST_SHARE = 20

ROOMS = "kitchen, bedroom, living room, bathroom, hallway, garage, office, garden, basement, attic, nursery, dining room, porch, hall, study".split(", ")
THINGS = "lamp, ceiling light, fan, heater, front door, blinds, curtains, television, speaker, coffee machine, radio, window, gate, printer".split(", ")
NAMES = (
    "Alice Bruno Carla David Elena Felix Greta Hannah Ivan Julia Kevin Laura Martin Nadia Oliver Paula Quentin Rosa Simon Theresa Umberto "
    "Valerie Walter Xenia Yusuf Zoe Priya Kenji Fatima Chidi Ingrid Pablo Noor Dmitri Amara Lucas Mei Tariq Freya Santiago"
).split()
GREETINGS = ["Call", "Message", "Ask", "Hello", "Where is", "Find"]
DIGITS = "zero one two three four five six seven eight nine".split()
LETTERS = "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z".split()


class Sentences:
    def __init__(self):
        original = pages("C")
        self.texts = {language: {"prose": sorted(text for text in pages(folder, SHORTEST.get(language, 26), LONGEST.get(language, 109)) - original if native(text, language))} for language, folder in HELP.items()}
        prose, words = wordnet()
        self.texts["en"] = {"prose": sorted(prose), "word": sorted(words)}
        for language, name in INTENTS.items():
            path = PACKAGES / "home-assistant-intents" / f"home_assistant_intents/data/{name}.json"
            commands = Commands(json.loads(path.read_text()), random.Random(language)).several(COMMANDS, SHORTEST.get(language, 9))
            self.texts[language]["command"] = sorted(text for text in commands if native(text, language))

    def pick(self, language, rng, test):
        """(kind, text)"""
        shares = KINDS.get(language, OTHER_KINDS)
        while True:
            kind = rng.choices(list(shares), shares.values())[0]
            text = self.of(kind, language, rng)
            if is_test(text) == test:
                return kind, text

    def of(self, kind, language, rng):
        if kind == "digits":
            return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(3, 7)))
        if kind == "letters":
            return ", ".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 5))) + "."
        if kind == "names":
            return f"{rng.choice(GREETINGS)} {rng.choice(NAMES)}{rng.choice(['', ' and ' + rng.choice(NAMES)])}."
        if kind == "word":
            return ". ".join(rng.sample(self.texts[language]["word"], rng.randint(1, 3))) + "."
        return rng.choice(self.texts[language][kind])


def native(text, language):
    """Whether a text is in the script of the language."""
    return language not in SCRIPTS or bool(re.search(SCRIPTS[language], text) and not re.search("[A-Za-z]", text))


def is_test(text):
    return int.from_bytes(hashlib.sha256(text.lower().encode()).digest()[:2], "big") % TEST_SHARE == 0


def wordnet():
    """Example sentences, and words and pairs of words."""
    examples, words = set(), set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (PACKAGES / "wordnet-base/usr/share/wordnet" / f"data.{part}").open(encoding="utf8"):
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            examples.update(x.strip() for x in re.findall(r'"([^"]+)"', gloss) if 12 < len(x.strip()) < 110 and re.fullmatch(r"[A-Za-z',;.?! -]+", x.strip()))
            word = fields.split()[4].replace("_", " ").lower()
            if re.fullmatch(r"[a-z]{3,12}( [a-z]{3,12})?", word):
                words.add(word)
    return examples, words


def pages(folder, shortest=26, longest=109):
    """Sentences of GNOME's help in a language, of `shortest` to `longest` letters."""
    out = set()
    for path in (PACKAGES / "gnome-user-docs/usr/share/help" / folder).rglob("*.page"):
        for paragraph in re.findall(r"<p>(.*?)</p>", path.read_text(encoding="utf8"), re.S):
            paragraph = html.unescape(" ".join(re.sub(r"<[^>]+>", "", paragraph).split()))
            out.update(x for x in re.split(r"(?<=[.!?।])\s+|(?<=[。！？])\s*", paragraph) if shortest <= len(x) <= longest and not re.search(r"[0-9/<>{}=_@#]", x))
    return out


class Commands:
    """Sentences of command templates with [optional], (a|b), <rule> and {slot}."""

    def __init__(self, intents, rng):
        self.intents, self.rng = intents, rng
        self.templates = [x for intent in intents["intents"].values() for block in intent["data"] for x in block["sentences"]]

    def several(self, count, shortest):
        out = set()
        for _ in range(count * 3):
            try:
                text = " ".join(self.expand(self.rng.choice(self.templates), 0).split())
            except (LookupError, ValueError, RecursionError):
                continue  # a template that needs something else
            if shortest <= len(text) < 90 and not re.search(r"[<>{}\[\]()|0-9]", text):
                out.add(text)
            if len(out) == count:
                break
        return out

    def expand(self, template, depth):
        if depth > 12:
            raise ValueError("a rule that contains itself")
        out, i = "", 0
        while i < len(template):
            c = template[i]
            if c in "([":
                level, j = 1, i + 1
                while level:
                    level += template[j] in "([<{"
                    level -= template[j] in ")]>}"
                    j += 1
                body, i = template[i + 1 : j - 1], j
                if c == "(" or self.rng.random() < 0.5:
                    out += self.expand(self.rng.choice(alternatives(body)), depth + 1)
            elif c == "<":
                j = template.index(">", i)
                out, i = out + self.expand(self.intents["expansion_rules"][template[i + 1 : j]], depth + 1), j + 1
            elif c == "{":
                j = template.index("}", i)
                out, i = out + self.slot(template[i + 1 : j].split(":")[0], depth), j + 1
            else:
                out, i = out + c, i + 1
        return out

    def slot(self, name, depth):
        if self.intents["language"] == "en" and name in ("area", "floor", "name", "device"):
            return self.rng.choice(ROOMS if name in ("area", "floor") else THINGS)
        values = [v["in"] if isinstance(v, dict) else v for v in self.intents["lists"][name].get("values", [])]
        return self.expand(self.rng.choice(values), depth + 1)


def alternatives(body):
    """Splits a|b outside of brackets."""
    out, level, last = [], 0, 0
    for i, c in enumerate(body):
        level += c in "([<{"
        level -= c in ")]>}"
        if c == "|" and not level:
            out.append(body[last:i])
            last = i + 1
    return out + [body[last:]]
