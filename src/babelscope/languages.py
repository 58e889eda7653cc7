"""Languages by any of their usual names: code, English name, script, family, writing direction.

Codes and names come from langcodes (IANA and CLDR data). The code we keep is the shortest that tells two columns of
a corpus apart: `zho-CN`, `cmn` and `zh` are all `zh`; `zho_Hant` is `zh-Hant`; `por-BR` stays apart from `pt`.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import langcodes

from babelscope.errors import InputError

__all__ = ["Language", "english_name", "language", "parse_languages", "script_of", "scripts_written"]

# Base subtag → family. Only what corpora in common use hold; elsewhere the family is "".
_FAMILIES = {
    "Indo-European": (
        "en de nl af fy lb is fo da sv nb nn no yi sco li fr es pt it ro ca gl ast oc sc scn fur lmo lij vec an wa la "
        "ru uk be pl cs sk sl hr sr bs mk bg szl hsb dsb lt lv ltg el sq hy fa tg ps ku ckb bal os hi ur bn pa gu mr "
        "ne or as si sd sa ks kok mai bho awa mag hne doi dv rom ga cy gd br gv kw"
    ),
    "Sino-Tibetan": "zh yue nan wuu hak gan my bo dz mni lus kac brx",
    "Afro-Asiatic": "ar ary arz ars apc acm aeb ajp acq mt he am ti so om ha kab ber shi zgh tzm taq syr arc aa",
    "Niger-Congo": (
        "sw yo ig zu xh sn rw rn ny st tn nso ss ts ve nd nr ln lg lua kg ki kam bem wo ff fuv bm dyu ee fon ak tw gaa "
        "mos kbp sg tum umb kmb cjk nus"
    ),
    "Austronesian": "id ms jv su fil tl ceb ilo war pag mg mi sm to fj haw ty ban bug min ace bjn bik hil tet",
    "Austroasiatic": "vi km sat kha",
    "Dravidian": "ta te kn ml tcy",
    "Turkic": "tr az azb kk ky uz tk tt ba ug cv crh sah",
    "Uralic": "fi et hu se chm mrj udm kv",
    "Japonic": "ja ryu",
    "Koreanic": "ko",
    "Kra-Dai": "th lo shn",
    "Kartvelian": "ka",
    "Mongolic": "mn bua",
    "Basque (isolate)": "eu",
    "Quechuan": "qu quy quz",
    "Aymaran": "ay ayr",
    "Tupian": "gn",
    "Nilo-Saharan": "luo din dik kr knc mas",
    "Hmong-Mien": "hmn mww",
    "Creole": "ht pap tpi kea bi mfe sag",
    "Constructed": "eo ia io vo tlh",
    "Uto-Aztecan": "nah",
    "Mayan": "yua kek quc mam",
    "Eskimo-Aleut": "kl iu",
    "Northeast Caucasian": "ce av",
}
_FAMILY_OF = {code: family for family, codes in _FAMILIES.items() for code in codes.split()}

_COUNTRIES = {
    "jp": "ja", "cn": "zh", "ua": "uk", "kp": "ko", "dk": "da", "cz": "cs", "gr": "el", "vn": "vi", "ir": "fa",
    "il": "he", "rs": "sr", "us": "en", "gb": "en", "au": "en", "nz": "en", "at": "de", "mx": "es", "cl": "es",
    "pe": "es", "ph": "fil", "pk": "ur", "bd": "bn", "np": "ne", "iq": "ar", "eg": "ar", "ae": "ar", "jo": "ar",
    "dz": "ar", "ma": "ar", "sy": "ar", "ye": "ar", "al": "sq", "ge": "ka", "kz": "kk", "kg": "ky", "tj": "tg",
    "md": "ro", "by": "be", "ee": "et", "si": "sl", "kh": "km", "mm": "my", "lk": "si", "hk": "zh-Hant",
    "ke": "sw", "tz": "sw", "et": "am", "za": "af", "ng": "ha", "vu": "bi",
}  # fmt: skip
"""what people type for a language and is the code of a country; asked only where it is the code of no language"""

_RIGHT_TO_LEFT = frozenset({"Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm", "Rohg", "Mand", "Samr"})

# First word of a character's Unicode name → ISO 15924.
_SCRIPT_WORDS = {
    "LATIN": "Latn", "FULLWIDTH": "Latn", "CYRILLIC": "Cyrl", "GREEK": "Grek", "ARMENIAN": "Armn", "GEORGIAN": "Geor",
    "HEBREW": "Hebr", "ARABIC": "Arab", "SYRIAC": "Syrc", "THAANA": "Thaa", "NKO": "Nkoo", "ADLAM": "Adlm",
    "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru", "GUJARATI": "Gujr", "ORIYA": "Orya", "TAMIL": "Taml",
    "TELUGU": "Telu", "KANNADA": "Knda", "MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai", "LAO": "Laoo",
    "TIBETAN": "Tibt", "MYANMAR": "Mymr", "KHMER": "Khmr", "ETHIOPIC": "Ethi", "TIFINAGH": "Tfng", "MEETEI": "Mtei",
    "OL": "Olck", "MONGOLIAN": "Mong", "CHEROKEE": "Cher", "CANADIAN": "Cans", "JAVANESE": "Java", "BALINESE": "Bali",
    "HANGUL": "Hang", "HIRAGANA": "Hira", "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana", "HALFWIDTH": "Kana",
    "BOPOMOFO": "Bopo", "CJK": "Hani", "VAI": "Vaii", "YI": "Yiii", "GOTHIC": "Goth", "COPTIC": "Copt",
}  # fmt: skip

_WRITTEN_WITH = {
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
}


@dataclass(frozen=True)
class Language:
    """One language as it is written: what labels, checks and plots need to know about it."""

    code: str
    """the code used everywhere in babelscope: `en`, `zh`, `zh-Hant`, `pt-BR`"""
    name: str
    """English name"""
    script: str
    """ISO 15924: Latn, Hans, Arab, Deva, …"""
    family: str
    """top-level family, or "" where our short table has none"""
    direction: Literal["ltr", "rtl"]
    tag: str
    """BCP 47 tag with the script spelled out: `zh-Hans`"""


def language(code: str) -> Language:
    """The language that a code or English name stands for, in ISO 639-1/3, BCP 47 or FLORES spelling.

    Raises InputError naming near matches when nothing is known by that name.

    >>> language("eng_Latn").code, language("zho-CN").script, language("Arabic").direction
    ('en', 'Hans', 'rtl')
    """
    try:
        return _language(code.strip())
    except LookupError:
        raise InputError(_unknown(code)) from None


def english_name(code: str) -> str:
    """English name of a language; a code that is not known stays as it is.

    >>> english_name("ar"), english_name("random")
    ('Arabic', 'random')
    """
    try:
        return language(code).name
    except InputError:
        return code


@lru_cache(maxsize=4096)
def _language(code: str) -> Language:
    found = _from_tag(code) or _from_name(code)
    if found is None:
        raise LookupError(code)
    base = found.language or ""
    full = found.maximize()
    script = "Kore" if full.script == "Hang" else full.script or "Zyyy"  # FLORES writes kor_Hang
    default_script = langcodes.Language.get(base).maximize().script
    parts = [base]
    if script != default_script:
        parts.append(script)
    # Of a Chinese territory only the script matters; elsewhere NTREX and others keep two columns of one language.
    if found.territory and base != "zh":
        parts.append(found.territory)
    short = "-".join(parts)
    return Language(
        code=short,
        name=langcodes.Language.get(short).display_name("en"),
        script=script,
        family=_FAMILY_OF.get(base, ""),
        direction="rtl" if script in _RIGHT_TO_LEFT else "ltr",
        tag="-".join([base, script, *([found.territory] if found.territory else [])]),
    )


def _from_tag(code: str) -> langcodes.Language | None:
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", code, flags=re.ASCII):
        return None
    try:
        found = langcodes.Language.get(langcodes.standardize_tag(code)).prefer_macrolanguage()
    except ValueError:
        return None
    known = found.is_valid() and found.language not in {None, "und", "mul", "zxx", "mis"}
    return found if known else None


def _from_name(name: str) -> langcodes.Language | None:
    # the name data know hundreds of spellings of two and three letters: what looks like a code is one, or nothing
    if len(name) < 4 and name.isascii():
        return None
    # control characters have a meaning of their own inside the name data
    if not name.isprintable() or not 0 < len(name) <= 80:
        return None
    try:
        found = langcodes.find(name)
    except LookupError:
        return None
    return found.prefer_macrolanguage() if found.is_valid() and found.language else None


def _unknown(code: str) -> str:
    shown = code if len(code) <= 40 else code[:37] + "…"
    names = {_language(known).name: _language(known).code for known in _FAMILY_OF}
    asked = code.strip()
    if asked.lower() in _COUNTRIES:
        meant = _COUNTRIES[asked.lower()]
        return f"unknown language {shown!r}: that is a country's code; did you mean {meant} ({_language(meant).name})?"
    near = [
        f"{names[name]} ({name})" for name in difflib.get_close_matches(asked.title(), list(names), n=3, cutoff=0.7)
    ]
    if not near and len(asked) <= 4:
        codes = difflib.get_close_matches(asked.lower(), list(_FAMILY_OF), n=3, cutoff=0.5)
        near = [f"{_language(known).code} ({_language(known).name})" for known in codes]
    hint = f"did you mean {', '.join(near)}?" if near else "use a code such as en, zh, pt-BR or eng_Latn"
    return f"unknown language {shown!r}: {hint}"


def own_name(code: str) -> str:
    """The name of a language in itself, capitalised.

    >>> own_name("fr"), own_name("zh")
    ('Français', '中文')
    """
    name = langcodes.Language.get(language(code).code).autonym()
    return name[:1].upper() + name[1:]


def three_letters(code: str) -> str:
    """ISO 639-3 of a language's code, by which some data sets name their folders; the code itself where there is none.

    >>> three_letters("en"), three_letters("zh")
    ('eng', 'zho')
    """
    try:
        return langcodes.Language.get(code).to_alpha3()
    except LookupError:
        return code


def parse_languages(text: str | Iterable[str]) -> list[str]:
    """Canonical codes from a comma-separated list (or any sequence of codes and names), in the order given.

    Raises InputError when the list is empty, a name is unknown, or two names stand for one language.

    >>> parse_languages("en,zho_Hans, French")
    ['en', 'zh', 'fr']
    """
    asked = text.split(",") if isinstance(text, str) else list(text)
    asked = [name.strip() for name in asked if name.strip()]
    if not asked:
        raise InputError("no language is named: give codes separated by commas, such as en,zh,fr")
    codes = [language(name).code for name in asked]
    for code, count in Counter(codes).items():
        if count > 1:
            twice = " and ".join(name for name, c in zip(asked, codes) if c == code)
            raise InputError(f"language {code} is named twice ({twice}): name each language once")
    return codes


def script_of(text: str) -> dict[str, float]:
    """Share of each script (ISO 15924; Han is Hani) among the letters and marks of a text, largest first.

    Empty when nothing in the text belongs to a script (digits, punctuation, emoji).

    >>> script_of("abc где")
    {'Latn': 0.5, 'Cyrl': 0.5}
    """
    shares: Counter[str] = Counter()
    for character, count in Counter(text).items():
        script = _script_of_character(character)
        if script:
            shares[script] += count
    total = shares.total()
    return {script: count / total for script, count in shares.most_common()}


def scripts_written(script: str) -> tuple[str, ...]:
    """The scripts, as `script_of` names them, that a text in this script may be made of: Jpan → Hani, Hira, Kana."""
    return _WRITTEN_WITH.get(script, (script,))


@lru_cache(maxsize=65536)
def _script_of_character(character: str) -> str:
    if unicodedata.category(character)[0] not in "LM":
        return ""
    words = unicodedata.name(character, "").split()
    if not words:
        return ""
    if words[0] == "HALFWIDTH" and "HANGUL" in words:
        return "Hang"
    return _SCRIPT_WORDS.get(words[0], "")
