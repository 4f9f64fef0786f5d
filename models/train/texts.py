"""What the recordings say, where their packages tell: the text of a clip, and the espeak-ng voice that reads its language."""

import gzip
import json
import re
from functools import lru_cache

from . import drascula, queen, sky
from .paths import PACKAGES

VOICES = {  # of the languages that espeak-ng reads reliably
    "en": "en-us", "fr": "fr-fr", "es": "es", "it": "it", "ru": "ru", "ro": "ro", "bg": "bg", "ca": "ca", "el": "el", "da": "da",
    "lt": "lt", "nl": "nl", "cs": "cs", "de": "de", "pt": "pt-br", "sv": "sv", "ko": None,
}
TRANSCRIPTS = "transcripts.json"
TRANSCRIBED = {sky.PACKAGE}  # whose texts a recogniser wrote (models/train/transcribe.py)
# The prompts of a language by another speaker, some of them in other words.
OTHER_PROMPTS = {"asterisk-prompt-it-menardi-wav": "it", "asterisk-prompt-es-co": "es", "asterisk-prompt-fr-armelle": "fr"}
UNSURE = TRANSCRIBED | {*OTHER_PROMPTS}  # whose texts are often not what is said
PROMPTS = re.compile(r"asterisk-core-sounds-([a-z]+)-g722")
NOT_READ = re.compile(r"[\[\d<{|]|\.\.\.")  # tones, numbers, gaps
NO_TILDE = re.compile(r"contrasena|senal|manana|espanol|\ban[o]s?\b", re.IGNORECASE)  # Spanish without its ñ
LUA = re.compile(r'dialogId\("([^"]+)"[^\n]*\n\s*dialogStr\("((?:[^"\\]|\\.)*)"\)')


def text_of(entry):
    """(text, voice) of an entry of prepared/GROUP.json, or None."""
    package, clip = entry["package"], entry["clip"]
    reader = {"tuxpaint-stamps-default": stamp, "pocketsphinx-testdata": librivox, "festvox-ru": festvox, queen.PACKAGE: acted, sky.PACKAGE: transcribed}.get(package)
    if package in drascula.PACKAGES_OF:
        return cast(package, clip)
    if package in OTHER_PROMPTS:
        return prompt(OTHER_PROMPTS[package], clip)
    if prompts_of := PROMPTS.fullmatch(package):
        return prompt(prompts_of[1], clip)
    if package.startswith("fillets-ng-data-"):
        return dialogue(package.rsplit("-", 1)[-1], clip)
    return reader(clip) if reader else None


def stamp(clip):
    """A stamp's description stands in a .txt beside it, in English and by language."""
    if "_desc" not in clip:
        return None
    base, _, language = clip.rsplit(".", 1)[0].partition("_desc")
    language = language.lstrip("_") or "en"
    path = PACKAGES / "tuxpaint-stamps-default" / f"{base}.txt"
    voice = VOICES.get(language)
    if not path.exists() or not voice:
        return None
    lines = path.read_text(encoding="utf8", errors="replace").splitlines()
    texts = {name: text for name, _, text in (line.partition(".utf8=") for line in lines[1:]) if text} | {"en": lines[0]}
    text = texts.get(language, "")
    return (text, voice) if text and not re.search(r"[0-9$]", text) else None


@lru_cache
def dialogues(language):
    """{dialogue: text} of the game's scripts."""
    scripts = sorted((PACKAGES / "fillets-ng-data").rglob(f"dialogs_{language}.lua"))
    return {name: text for path in scripts for name, text in LUA.findall(path.read_text(encoding="utf8", errors="replace"))}


def dialogue(language, clip):
    text = dialogues(language).get(clip.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return (text.replace("\\", " "), VOICES[language]) if text else None


@lru_cache
def prompt_texts(language):
    """{path without suffix: text} of asterisk's prompts."""
    path = PACKAGES / f"asterisk-core-sounds-{language}/usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    if not path.exists():
        return {}
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    return {name: text.strip() for name, text in (line.split(":", 1) for line in lines if ":" in line and line[0] != ";")}


def prompt(language, clip):
    text = prompt_texts(language).get(clip.split("/sounds/", 1)[-1].partition("/")[2].rsplit(".", 1)[0])
    if not text or NOT_READ.search(text) or (language == "es" and NO_TILDE.search(text)):
        return None
    return (text, VOICES[language])


def acted(clip):
    text = queen.texts().get(clip.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return (text, "en-us") if text else None


def cast(package, clip):
    text = drascula.texts(package).get("/".join(clip.rsplit(".", 1)[0].split("/")[-2:]))
    return (text.lower(), VOICES[drascula.PACKAGES_OF[package]]) if text and not NOT_READ.search(text.replace("...", " ")) else None


@lru_cache
def transcripts(package):
    path = PACKAGES / package / TRANSCRIPTS
    return json.loads(path.read_text()) if path.exists() else {}


def transcribed(clip):
    text = transcripts(sky.PACKAGE).get(clip)
    return (text, "en-us") if text else None


@lru_cache
def transcription():
    rows = {}
    for path in (PACKAGES / "pocketsphinx-testdata").rglob("librivox/transcription"):
        for text, name in re.findall(r"<s> (.*?) </s> \((\S+)\)", path.read_text()):
            rows[name] = text
    return rows


def librivox(clip):
    text = transcription().get(clip.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return (text, "en-us") if text else None


@lru_cache
def prompts():
    path = next((PACKAGES / "festvox-ru").rglob("txt.done.data"))
    return dict(re.findall(r'\( (\S+) "(.*?)" \)', path.read_text(encoding="utf8")))


@lru_cache
def label_files():
    return {path.stem: path for path in (PACKAGES / "festvox-ru").rglob("*.lab")}


def labels(clip):
    """[(phone, start, end)] in seconds of festvox-ru's own labels, in its phone set; None for other clips."""
    path, rows, before = label_files().get(clip.rsplit("/", 1)[-1].rsplit(".", 1)[0]), [], 0.0
    if path is None:
        return None
    for line in path.read_text(errors="replace").split("#", 1)[-1].splitlines():
        parts = line.split()
        if len(parts) >= 3:
            rows.append((parts[2], before, float(parts[0])))
            before = float(parts[0])
    return rows


def festvox(clip):
    """Texts with marks of stress: вол+ос."""
    text = prompts().get(clip.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return (text.replace("+", ""), "ru") if text else None
