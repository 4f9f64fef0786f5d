"""One inventory of phones for all languages: IPA without stress and length, and what differs little is one phone.

`fold` maps the notation of espeak-ng and of the synthesiser Kokoro to it; `spoken` is what espeak-ng reads a text as.
"""

import re
import subprocess
import unicodedata
from functools import lru_cache

BLANK, BOUNDARY = "<blank>", "<wb>"
PHONES = (
    "n i t s ə ɪ l k ɹ oʊ m ɛ æ ɔ p d ɑ ð b u eɪ ɝ a z w f v j ʌ o aɪ g ʃ ʊ h ŋ d͡ʒ t͡ʃ θ aʊ e ɾ ɔɪ "
    "ʒ x r ɲ y ø t͡s ʁ ɨ ɑ̃ ɔ̃ ɛ̃"
).split()
VOCABULARY = [BLANK, BOUNDARY, *PHONES]
VOWELS = frozenset("i ə ɪ oʊ ɛ æ ɔ ɑ u eɪ ɝ a ʌ o aɪ ʊ aʊ e ɔɪ y ø ɨ ɑ̃ ɔ̃ ɛ̃".split())

# Kokoro writes some diphthongs and affricates as one letter.
LETTERS = {"A": "eɪ", "I": "aɪ", "W": "aʊ", "Y": "ɔɪ", "O": "oʊ", "Q": "oʊ", "ʧ": "t͡ʃ", "ʤ": "d͡ʒ", "ʦ": "t͡s", "ʣ": "z"}
PAIRS = {"tʃ": "t͡ʃ", "dʒ": "d͡ʒ", "ts": "t͡s", "dz": "z", "tɕ": "t͡ʃ", "dʑ": "d͡ʒ", "əʊ": "oʊ"}
DIPHTHONGS = ("eɪ", "aɪ", "aʊ", "ɔɪ", "oʊ")
# Rare phones and the nearest of the inventory; an empty string is no phone of its own.
NEAREST = {
    "ɡ": "g", "ɣ": "g", "ɢ": "g", "ɟ": "d͡ʒ", "c": "t͡ʃ", "q": "k", "ʔ": "", "ʼ": "", "β": "b", "ʋ": "v", "ɱ": "m", "ɸ": "f",
    "ɫ": "l", "ʎ": "j", "ɭ": "l", "ɬ": "l", "ʟ": "l", "ɽ": "ɾ", "ɻ": "ɹ", "ʀ": "ʁ", "ʈ": "t", "ɖ": "d", "ɳ": "n", "ɴ": "ŋ", "ʂ": "ʃ",
    "ɕ": "ʃ", "ç": "x", "χ": "x", "ħ": "h", "ɦ": "h", "ʑ": "ʒ", "ʐ": "ʒ", "ʝ": "j", "ɥ": "w", "ɰ": "w", "ʍ": "w", "ɮ": "z",
    "ᵻ": "ɪ", "ɐ": "ə", "ɘ": "ə", "ɵ": "ə", "ɜ": "ɝ", "ɚ": "ɝ", "ɞ": "ɝ", "œ": "ø", "ɶ": "ø", "ʏ": "y", "ʉ": "u", "ɯ": "ɨ", "ɤ": "ʌ",
    "ɒ": "ɑ", "ɩ": "ɪ", "ᵊ": "ə", "ɹ̩": "ɝ",
    "ɐ̃": "ɑ̃", "ã": "ɑ̃", "õ": "ɔ̃", "œ̃": "ɛ̃", "ẽ": "ɛ̃", "ũ": "u", "ĩ": "i", "ʊ̃": "ʊ", "ɪ̃": "ɪ", "ə̃": "ə",
}
# Differences between languages' notation.
BY_LANGUAGE = {"en": {"a": "æ", "o": "ɔ", "e": "ɛ"}}
# Kokoro's Mandarin. Aspiration distinguishes its stops, so those without are the voiced ones of other languages, which sound like them.
MANDARIN = {
    "p": "b", "t": "d", "k": "g", "ʦ": "t͡s", "ʨ": "d͡ʒ", "ꭧ": "d͡ʒ", "pʰ": "p", "tʰ": "t", "kʰ": "k", "ʦʰ": "t͡s", "ʨʰ": "t͡ʃ", "ꭧʰ": "t͡ʃ",
    "ɻ": "ɹ", "ɤ": "ə", "ɛ": "e", "ɥ": "w",
}
# The same phones as espeak-ng's `cmn-latn-pinyin` writes them (src/keyword/spelling.rs); the longest symbol that fits counts.
PINYIN = {
    "ph": "p", "th": "t", "kh": "k", "tsh": "t͡s", "ts.h": "t͡ʃ", "tɕh": "t͡ʃ", "p": "b", "t": "d", "k": "g", "ts": "t͡s", "ts.": "d͡ʒ", "tɕ": "d͡ʒ",
    "s.": "ʃ", "ɕ": "ʃ", "ʐ": "ɹ", "χ": "x", "ɡ": "g", "o-": "ə", "i.": "ɨ", "i\u032a": "ɨ", "ər": "ɝ", "ɑ": "a", "ɛ": "e", "æ": "e",
    "ji": "i", "jiɑ": "j a", "jiɛ": "j e", "jiou": "j o u", "wu": "u", "wuə": "w ə", "onɡ": "ʊ ŋ", "yŋ": "j ʊ ŋ", "yu": "j ʊ", "yə": "y", "yi": "y",
    "yɛ": "w e", "yæ": "w e", "iɑ": "j a", "iɛ": "j e", "iou": "j o u", "ua": "w a", "uə": "w ə", "uei": "w e i",
}
DECOMPOSED = {unicodedata.normalize("NFD", phone): phone for phone in PHONES}
DECOMPOSED_NEAREST = {unicodedata.normalize("NFD", phone): nearest for phone, nearest in NEAREST.items()}
NASAL = "\u0303"
NOISE = re.compile("[ˈˌːˑʰʲʷˠˤ‿|↗↘→↓ʱ˞\u0329\u032a\u0325\u030a\u031f\u0320\u0318\u0319\u031e\u031d\u0306\u030d\u0339\u033a\u0361]")


@lru_cache(maxsize=4096)
def fold(phone, language=""):
    """The phones of the inventory for one phone of espeak-ng or Kokoro: none, one, or two."""
    phone = unicodedata.normalize("NFD", phone)
    if language == "zh" and (known := MANDARIN.get(re.sub("[ː↗↘→↓]", "", phone))):
        return (known,)
    if phone in LETTERS:
        return (LETTERS[phone],)
    plain = NOISE.sub("", phone)
    if plain in PAIRS:
        return (PAIRS[plain],)
    if plain in DIPHTHONGS:
        return (plain,)
    if plain in LETTERS:
        return (LETTERS[plain],)
    same = BY_LANGUAGE.get(language, {}).get(plain) or DECOMPOSED_NEAREST.get(plain, plain)
    if not same:
        return ()
    if (known := DECOMPOSED.get(unicodedata.normalize("NFD", same))) is not None:
        return (known,)
    if NASAL in plain and plain != NASAL:
        return fold(plain.replace(NASAL, ""), language)
    if len(plain) > 1:  # a cluster or an unknown diphthong
        return tuple(one for letter in plain for one in fold(letter, language))
    return ()


def rhotic(rows):
    """Joins ə ɹ to ɝ in [(phone, start, end)], unless a vowel follows at once: "butter", not "around"."""
    out, i = [], 0
    while i < len(rows):
        follows = i + 2 < len(rows) and rows[i + 2][1] == rows[i + 1][2] and rows[i + 2][0] in VOWELS
        if i + 1 < len(rows) and rows[i][0] == "ə" and rows[i + 1][0] == "ɹ" and rows[i][2] == rows[i + 1][1] and not follows:
            out.append(("ɝ", rows[i][1], rows[i + 1][2]))
            i += 2
        else:
            out.append(rows[i])
            i += 1
    return out


def timed(rows, language):
    """Folds Kokoro's [(phone, start, end)] of one utterance."""
    out = []
    for phone, start, end in rows:
        folded = fold(phone, language)
        for k, one in enumerate(folded):
            out.append((one, start + (end - start) * k // len(folded), start + (end - start) * (k + 1) // len(folded)))
    return rhotic(out) if language == "en" else out


def mandarin(syllable):
    """Phones of a syllable that espeak-ng reads in Mandarin; 1 to 5 and ɜ are its tones."""
    rest, out = re.sub("[_1-5ɜˈˌʲ]", "", syllable), []
    while rest:
        symbol = max((symbol for symbol in (*PINYIN, rest[0]) if rest.startswith(symbol)), key=len)
        out += PINYIN[symbol].split() if symbol in PINYIN else fold(symbol)
        rest = rest[len(symbol) :]
    return tuple(out)


GERMAN_R = re.compile("[rɾ](?=[_ˈˌ\u200d]*[aeiouyɑɐəɛɜɪɔʊʏœøæ])")


def german(ipa):
    """espeak-ng's German as pronounced: an r before a vowel is uvular, others and that of -er are vowels. espeak-ng writes ur as ??."""
    return re.sub("[rɾɜ]", "ɐ", GERMAN_R.sub("ʁ", ipa.replace("??", "ʊɐ")))


@lru_cache(maxsize=65536)
def spoken(text, voice):
    """The words of a text as espeak-ng's `voice` reads them: a tuple of phones for each word."""
    out = subprocess.run(["espeak-ng", "-q", "--ipa", "--sep=_", "-v", voice, "--stdin"], input=text, capture_output=True, text=True, check=True).stdout
    words = []
    if voice.split("-")[0] == "de":
        out = german(out)
    for word in re.sub(r"\([a-z-]+\)", "", out).split():
        if voice.startswith("cmn"):
            words.append(mandarin(word))
            continue
        phones = [one for part in word.split("_") for one in fold(part, voice.split("-")[0])]
        if phones:
            words.append(tuple(phones))
    return tuple(words)
