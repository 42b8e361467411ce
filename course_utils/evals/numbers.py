r"""The number that a text is, and the last number of a reply, as people and models write numbers.

`9{,}500`, `1 1/2`, `-$3`, `\frac12`, `1.5 \times 10^3`, `12\%`, `12 m²`. What is not understood is None and never a
part of it, or a wrong answer would count as right (pitfall lenient-number-parser): a sum that was not worked out, a
range, a time, a version, a pair, a root, `0.333…`, the European `1.234,5`, `3万`, `3 million`, a number in words.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

# ------------------------------------------------------------------------------------------------ one way of writing it
SAME = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != ord("，")}  # full-width ASCII
SAME |= dict.fromkeys(map(ord, "−–‒‐‑﹣"), "-") | dict.fromkeys(map(ord, "\t\u00a0\u2007\u2009\u202f\u3000"), " ")
SAME |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))  # of no width
SAME |= str.maketrans({"⁄": "/", "∕": "/", "∙": "·", "⋅": "·", "￥": "¥", "٫": ".", "٬": ","})
SYMBOLS = {"times": "×", "cdot": "×", "div": "÷", "pm": "±", "pi": "π"}  # of LaTeX
FRACTIONS, RAISED = "[¼-¾⅐-⅞]", "[⁰¹²³⁴-⁹⁻]+"
PLAIN = [(re.compile(pattern), plain) for pattern, plain in (
    (r"\\(?:tag|label|[hv]space)\*? ?\{[^{}]*\}", ""),
    (r"\\\\(?:\[[^\]]*\])?", "\n"),
    (r"\{,\}", ","),
    (r"\\!", ""),
    (r"\\[,;:> ()\[\]]|~(?!\d)|&|\\(?:q?quad|left|right|displaystyle)(?![a-z])", " "),
    (r"\\([%$#_{}])", r"\1"),
    (r"\^ ?\{ ?(-?\d+) ?\}", r"^\1"),
    (r"\^ ?\{? ?\\circ ?\}?|\\degree(?![a-z])", "°"),
    *((rf"\\{name}(?![a-z])", sign) for name, sign in SYMBOLS.items()),
    (r"(?:\\sqrt|√) ?(?:\[[^\]]*\])? ?", "√"),
    (r"\\(?:text[a-z]*|mbox|mathrm|rm) ?\{([^{}\d]*)\}", r"⟨\1⟩"),  # a unit, or words
    (r"(?<=\d)(?=\\[dtc]?frac)|(?<=[A-Za-z])(?=\\boxed|\\text|\\math|(?:\*\*|`)\S)", " "),
    (r"\\[dtc]?frac ?(?:\{ ?(-?[\d.,]+) ?\}|(\d)) ?(?:\{ ?([\d.,]+) ?\}|(\d))", r"\1\2/\3\4"),
    *[(r"\\(?:boxed|fbox|text[a-z]*|math[a-z]+|mbox|bm|underline) ?\{([^{}]*)\}", r"\1")] * 2,  # one in the other
    (r"(?<!\d)(\*{1,3}|`+|(?<!\w)_{1,2})(?=\S)([^\n]{1,200}?)(?<=\S)\1(?!\d)", r"\2"),  # Markdown
    (r"(?<=\d)，(?=\d{3}(?!\d))", ","),
    (r"-[A-Z]{0,3}[$€£¥] ?", "-"),
    (r"[$€£¥]", " "),
    (r"(?<==) ?- (?=[\d.])", " -"),
    (r"\b(?:[Mm]inus|[Nn]egative) (?=[\d.])|(?:负|零下)(?=[\d.])", "-"),
    (r" {2,}", " "),
)]  # fmt: skip


def _plain(text: str) -> str:
    """A text with its numbers written in one way: ASCII digits and signs, no LaTeX or Markdown around them."""
    text = re.sub(RAISED, lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text)
    text = re.sub(rf"(?<=\d)(?={FRACTIONS})", " ", text)
    text = re.sub(FRACTIONS, lambda found: unicodedata.normalize("NFKC", found[0]), text).translate(SAME)
    text = re.sub(r"(?![0-9])\d", lambda found: str(unicodedata.decimal(found[0])), text)
    for pattern, plain in PLAIN:
        text = pattern.sub(plain, text)
    return text


# ---------------------------------------------------------------------------------------------------------- the grammar
WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?!\d)"  # only groups of three digits are thousands
DECIMAL = rf"(?:{WHOLE}(?:\.\d+(?!\d|\.\.|…))?|\.\d+(?!\d))"
UNIT = r"[cdkm]?m|[km]?g|[cdm]?[lL]|[th]|m?s|min|km/h|m/s|°[CF]?"
# What joins digits to something that is read as a whole or not at all: 12:30, 9 - 2, 3元5角.
LINK = "|".join([
    r"[.,:'’_ ]|\.?\(|\^-?| : |[eE]-?",
    r" ?(?:[-+/×÷·—~xX]|\*{1,2}|plus|times|divided by|over|[加减乘除]以?) ?-?",
    rf" ?(?:{UNIT}|hours?|minutes?|feet|foot|ft|pounds?|lbs?|dollars?|days?|weeks?|years?)(?: and)? ",
    r"(?:[年月元角分时点吨斤天米]|小时|分钟|[千分厘毫]米|千?克|公斤)零?",
])  # fmt: skip
# What makes another number of the one before it: 3 million, 3万, 3x, 3D.
SCALE = r"(?i:(?:ten|hundred|thousand|million|billion|trillion)(?:th)?s?|dozens?|(?:third|fourth|fifth|eighth)s|halves)"
SPOILT = "|".join([
    rf" ?⟨? ?(?:{SCALE}|mn|bn|mil|[kKMB])(?![A-Za-z])| and (?:a|one|two|three) (?:half|third|quarter)",
    r" ?(?:%|⟨? ?(?i:per ?cent)|‰|π|√|[十百万亿兆]|千(?![克米瓦卡])|(?:个|小时|年|天)?半|分之)",
    r"[\u0300-\u036f_^]|[A-Za-z](?<![gmslLth])(?![A-Za-z])|[A-Za-z]+[\d_^]",
])  # fmt: skip
NUMBER = "".join([
    r"(?:(?<![A-Za-z0-9_)\]}%°.^√/±+-])(?P<sign>[-+])|(?<![A-Za-z_^√/.±+-]))",
    r"(?:(?P<whole>\d+)(?: | and |又)(?!\d{3} ?/)(?=\d+ ?/ ?\d))?",
    rf"(?P<top>{DECIMAL})(?:(?:[eE]| ?[×x*] ?10\^)(?P<power>[-+]?\d{{1,4}})(?!\d))?",
    rf"(?: ?/ ?(?P<bottom>{WHOLE}))?(?P<percent> ?(?:%|⟨? ?(?i:per ?cent)(?![A-Za-z])⟩?))?",
    rf"(?: ?(?P<unit>(?:⟨(?! ?{SCALE}\b)[^⟩]*⟩|(?:{UNIT})(?![A-Za-z/]))(?:\^?-?[23])?))?",
    rf"(?!(?:{LINK})\.?\d)(?!{SPOILT})",
])  # fmt: skip
HAN = "[零〇一二两三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟]"
ENGLISH = (
    "zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    "|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|(?:a )?hundred"
)
PIECE, BEFORE = r"[-+]?[\d./]+", "A-Za-z_^√/.±+×÷-"
# What holds a number and is not read, in whole.
JUNK = "|".join([
    rf"[(\[{{] ?{PIECE}(?:(?: ?[;、，] ?|, |,(?!\d{{3}}(?!\d))){PIECE})+ ?[)\]}}]",  # (3, 4)
    r"\\[A-Za-z]+ ?(?:\{(?:[^{}]|\{[^{}]*\})*\} ?)+",  # other LaTeX
    rf"(?:{HAN}|\d)+分之(?:{HAN}|\d)+|(?!万一|千万){HAN}{{2,}}|(?:[是为得剩有]|等于) ?(?:(?!一){HAN}|一(?!\w))",
    rf"(?i:\b(?:is|are|equals?|makes?) (?:{ENGLISH})\b)",
    rf"(?:(?<![{BEFORE}])[{BEFORE}]++(?:(?<=√)[{{(])?)?\d+(?:(?:{LINK})\.?\d+)*+",
])  # fmt: skip
# What says nothing about the number before it: exponents and names (cm^2, CO2, x_1), and all of 1,2,3 but the last.
SKIP = "|".join([
    r"(?<![A-Za-zµΩ°⟩)\]}])[A-Za-zµΩ°⟩)\]}]++(?:\^-?\d+|(?<=[A-Za-z])_\{?\w+\}?)",
    r"(?<![A-Za-z])[A-Za-z]{1,2}[23](?![\w.^])|(?<![\d.,])\d+(?:,(?!\d{3}(?!\d))\d+)+,(?!\d{3}(?!\d))(?=\d)",
])  # fmt: skip
SCAN = re.compile(rf"(?P<skip>{SKIP})|{NUMBER}|{JUNK}")


class Number(NamedTuple):
    """A number and the unit behind it, "" where none was recognised."""

    value: Fraction
    unit: str


def parse_number(text: str) -> Fraction | None:
    r"""The number that a text is, exactly, or None where it is anything else.

    A unit of measurement may follow: `12\text{ cm}^2` is 12. A percent is a hundredth: `12%` is 3/25, and not 12.
    """
    found = _whole(text)
    return found.value if found else None


def last_number(reply: str) -> Number | None:
    """The last number of a reply, or None where the last thing that looks like one is not understood."""
    found = None
    for match in SCAN.finditer(_plain(reply)):
        if not match["skip"] and not re.fullmatch(r"\\\D*", match[0]):
            found = match
    return _number(found)


def same_number(reply: str, reference: str) -> bool | None:
    """True where the last number of a reply is the reference; None where the reference is no number.

    A unit may be left out, but two that differ are two answers: 12 m is not 12 cm.
    """
    if (due := _whole(reference)) is None:
        return None
    found = last_number(reply)
    return found is not None and found.value == due.value and ("" in (found.unit, due.unit) or found.unit == due.unit)


def _whole(text: str) -> Number | None:
    return _number(re.fullmatch(NUMBER, re.sub(r"(?<!\.)[.。]$", "", _plain(text).strip()).rstrip()))


def _number(found: re.Match[str] | None) -> Number | None:
    """What was matched, if it is a number."""
    if found is None or not found["top"]:
        return None
    try:
        top, bottom, power = (re.sub("[, ]", "", found[name] or "") for name in ("top", "bottom", "power"))
        value = Fraction(top) * Fraction(10) ** int(power or 0) / int(bottom or 1)
        if (found["whole"] and value >= 1) or (found["bottom"] and " " in found["top"]):  # 3 and 5/2; 2 125/1000
            return None
        value = (value + int(found["whole"] or 0)) / (100 if found["percent"] else 1)
    except (ValueError, ZeroDivisionError):  # more digits than Python converts; n/0
        return None
    return Number(-value if found["sign"] == "-" else value, re.sub(r"[⟨⟩^ ]", "", found["unit"] or ""))
