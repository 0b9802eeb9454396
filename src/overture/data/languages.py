"""The languages of texts: a guess by script, and in Latin script by common words; the script's name where unsure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_LETTERS_READ = 1000
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_FEWEST_HITS = 2

_COMMON_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "English": "the and of to is that it for was with not this are have you but be at from they we his her my i "
        "what how when do did can has had will been would there their so if your me an in on by as or a it's don't",
        "German": "der die und das ist nicht ein eine ich zu den mit von sich auf für dem im wie was es wird aber auch "
        "sind habe kann bei nach einen wir sie er hat war noch nur mein keine des ihr an in als um so aus am mir wo",
        "French": "le la les et des est un une que qui dans pour pas ne sur je vous avec il elle ce du au plus mais "
        "nous sont cette mon ma votre été ai c'est d'un j'ai n'est à en de se son ou par très on",
        "Spanish": "el la los las y es que en un una por para con no se lo su del al como más pero mi muy me ha está "
        "yo si qué cómo cuando ya este esta son fue le de a o sin hay tengo puedo",
        "Italian": "il lo la gli le e è che di un una per con non si del della al come più ma mi sono ho ha questo "
        "questa anche nel alla dei ci molto io cosa perché i in da o quando mio mia se posso",
        "Portuguese": "o a os as e é que um uma para com não se do da em por mais mas como eu meu minha muito isso "
        "foi no na dos das ao você está são tem já de ele ela quando ou",
        "Dutch": "de het een en van is dat niet ik te voor met op zijn die er aan maar wat ook als bij naar je mijn "
        "heb hoe kan we was geen nog dit deze in of om ze hij door uit wordt",
        "Polish": "i w nie na się z do to jest że jak co ale o po za od dla czy mi tak był są tego mam może przez "
        "jego ja już tylko bardzo mój",
        "Swedish": "och att det är en som på jag inte för med av till den har ett om vi du men var kan min hur så "
        "från när de i mycket mitt",
        "Danish": "og at det er en som på jeg ikke for med af til den har et om vi du men var kan min hvordan så fra "
        "når de i meget mit hvad",
        "Czech": "a je se na to že v s z do není jsem jak ale co by pro od po tak jsou který už mi být byl jako nebo "
        "když i o",
        "Turkish": "ve bir bu da de için çok ne ile ben mi değil var gibi ama daha olan bunu kadar o en yok benim ki "
        "sonra neden",
    }.items()
}
_LANGUAGES = {
    "Hangul": "Korean", "Hiragana": "Japanese", "Katakana": "Japanese", "Cjk": "Chinese", "Greek": "Greek",
    "Hebrew": "Hebrew", "Thai": "Thai", "Armenian": "Armenian", "Georgian": "Georgian",
}  # fmt: skip
"""Languages that are nearly alone in their script, by the first word of their letters' names."""
_TELLING_LETTERS = {"Ukrainian": "іїєґ", "Russian": "ыэё", "Persian": "پچژگ"}
"""Letters that one of the languages of a script has and its large neighbours lack."""


def languages_of(texts: Iterable[str]) -> dict[str, float]:
    """The share of texts in each language, the commonest first; a script's name where the language is unsure."""
    counts = Counter(language for text in texts if (language := _language(text[:_LETTERS_READ].lower())))
    total = sum(counts.values())
    return {name: round(count / total, 3) for name, count in counts.most_common(6) if count / total >= 0.01}


def _language(text: str) -> str:
    """The language of a text in small letters; empty where it has no letters."""
    scripts: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if letter.isascii() and letter.isalpha():
            scripts["Latin"] += count
        elif letter.isalpha():
            scripts[unicodedata.name(letter, "other").split()[0].split("-")[0].capitalize()] += count
    if not scripts:
        return ""
    script = scripts.most_common(1)[0][0]
    if script == "Cjk" and (scripts["Hiragana"] or scripts["Katakana"]):
        return "Japanese"
    if script in _LANGUAGES:
        return _LANGUAGES[script]
    unsure = "other" if script == "Other" else f"{script} script"
    if script != "Latin":
        return next((name for name, letters in _TELLING_LETTERS.items() if set(letters) & set(text)), unsure)
    words = set(_WORD.findall(text))
    hits = Counter({language: len(words & common) for language, common in _COMMON_WORDS.items()})
    (language, most), (_, second) = hits.most_common(2)
    return language if most >= _FEWEST_HITS and most > second else unsure
