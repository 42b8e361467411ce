r"""The number that a text is, and the last number of a reply, as people and models write numbers.

`9{,}500`, `1 1/2`, `-$3`, `\frac12`, `1.5 \times 10^3`, `12\%`, `12 m²`. What is not understood is None and never a
part of it, or a wrong answer would count as right (pitfall lenient-number-parser): a sum that was not worked out, a
range, a time, a version, a pair, a root, `0.333…`, the European `1.234,5`, `3万`, `3 million`, a number in words.
"""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

# ------------------------------------------------------------------------------------------------ one way of writing it
SAME = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != ord("，")}  # full-width ASCII
SAME |= dict.fromkeys(map(ord, "−–‒‐‑﹣"), "-") | dict.fromkeys(map(ord, "\t\u00a0\u2007\u2009\u202f\u3000"), " ")
SAME |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))  # of no width
SAME |= str.maketrans({"⁄": "/", "∕": "/", "∙": "·", "⋅": "·", "٫": ".", "٬": ",", "∶": ":"})
SAME |= {code: "$" for code in range(0xA2, 0x10000) if unicodedata.category(chr(code)) == "Sc"}
SYMBOLS = {"times": "×", "cdot": "×", "div": "÷", "pm": "±", "mp": "±", "pi": "π", "infty": "∞"}  # of LaTeX
SYMBOLS |= {"c?dots": "⋯", "ldots": "⋯", "(?:[gl]e(?:q|qslant)?|[gl]t|neq?)": "≥"}
FUNCTION = r"(?<![A-Za-z])(?:(?:arc)?(?:sin|cos|tan|cot)|log|ln|lg|exp|sqrt)(?:[_^] ?(?:\{[^{}]*\}|\w+))?"
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
    (rf"(?:\\?{FUNCTION}(?= ?[({{\[]|\\| -?[\d.])|√) ?(?:\[[^\]]*\])? ?", "√"),
    (r"(?<=[A-Za-z])\((?=-?[\d.])", "√("),  # f(3)
    (r"(?:±|\+/-) *", "±"),
    (r" ?(?:[≥≤≠≮≯]|!=) *|(?<=[\w)] )[<>]=? (?=-?[\d.])|(?<![\w</])([A-Za-z])[<>]=?(?=-?[\d.])", r"\1≥"),
    (r"\{ ?(-?[\d.,]+) ?\\over ?([\d.,]+) ?\}", r"\1/\2"),
    (r"(\\[dtc]?frac ?\{ ?)([\d.,]+ ?\} ?\{ ?)-", r"\1-\2"),
    (r"\\(?:text[a-z]*|mbox|mathrm|rm) ?\{([^{}\d]*)\}", r"⟨\1⟩"),  # a unit, or words
    (r"(?<=\d)(?=\\[dtc]?frac)|(?<=[A-Za-z])(?=\\boxed|\\text|\\math|(?:\*\*|`)\S)", " "),
    (r"\\[dtc]?frac ?(?:\{ ?(-?[\d.,]+) ?\}|(\d)) ?(?:\{ ?([\d.,]+) ?\}|(\d))", r"\1\2/\3\4"),
    *[(r"\\(?:text[a-z]*|math[a-z]+|mbox|bm|underline) ?\{([^{}]*)\}", r"\1")] * 2,  # one in the other
    (r"(?<!\d)(\*{1,3}|`+|(?<!\w)_{1,2})(?=\S)([^\n]{1,200}?)(?<=\S)\1(?!\d)", r"\2"),  # Markdown
    (r"(?<=\d)，(?=\d{3}(?!\d))", ","),
    (r"([-±])(?:\$|(?<![A-Za-z].)[A-Z][A-Za-z]{0,2}\.? ?\$?) ?(?=[\d.])", r"\1"),
    (r"(\$ ?[\d.,]*\d) ?[mb](?![A-Za-z])", r"\1 million"),
    (r"\$|(?<![A-Za-z])Rs\.? ?(?=[-\d])", " "),
    (r"(?<==) ?- (?=[\d.])", " -"),
    (r"\b(?:[Mm]inus|[Nn]egative) (?=[\d.])|(?:负|零下)(?=[\d.])", "-"),
    (r"(?<![\w.^×*,/])(?<![\d×*] )(?<!\d x )10\^(?=-?\d)", "1e"),
    (r" {2,}", " "),
    *[(r"\\(?:boxed|fbox) ?\{([^{}]*)\}", lambda found: _unboxed(found))] * 2,
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
SCALE = (
    r"(?i:(?:ten|hundred|thousand|million|billion|trillion)(?:th)?s?|dozens?|lakhs?|crores?|grand|gross|mrd|mlrd|mio|mln"
    r"|tn|bps|ppm|per mille|basis points|(?:third|fourth|fifth|eighth)s|halves)"
)
UNITS = (
    rf"{UNIT}|{SCALE}|feet|foot|ft|oz|inch(?:es)?|(?i:hour|hr|minute|min|second|sec|day|week|month|year|yr|yard|yd|mile"
    r"|pound|lb|ounce|gallon|gal|quart|qt|pint|dollar|euro|lit(?:er|re)|(?:kilo|centi)?met(?:er|re)|(?:kilo)?gram)s?"
)
SMALL = rf"cents?|pence|ounces?|oz|inch(?:es)?|in|{UNIT}|(?:minute|min|second|sec|hour|hr|day|month)s?"
LINK = "|".join([
    r"[.,:'’_ ]|\.?\(|\^-?| : |[eE]-?",
    r" ?(?:[-+/×÷·—~xX]|\*{1,2}|plus|times|divided by|over|out of|[加减乘除]以?|余数?|[到至比]) ?-?",
    r"[…⋯]{2,6} ?|\.{3,6}| ?⋯ ?| ?[Rr] ?| ?(?:with )?(?:a )?rem(?:ainder)?\.?(?: of)? ",
    rf" ?(?:{UNITS})\.?(?: and)? |(?: ?(?:{UNITS})\.?)?(?:,| and|, and) (?=[\d.]+ ?(?:{SMALL})(?![A-Za-z]))",
    r"个?(?:[年月元块角毛分秒时点吨斤里米升天周]|小时|钟头|分钟|星期|(?:平方)?[千分厘毫]?米|毫升|千?克|公[里斤]|英?[丈尺寸])[零又]?",
])  # fmt: skip
# What makes another number of the one before it: 3 million, 3万, 3x, 3D, 5 < x.
SPOILT = "|".join([
    rf"[ -]?⟨? ?(?:{SCALE}|mn|bn|mil|[kKMB])(?![A-Za-z])| and (?:a|one|two|three) (?:half|third|quarter)",
    r" ?(?:%|⟨? ?(?i:per ?cent|pct)|‰|\*?π|\*? ?pi(?![A-Za-z])|√|[<>≥]=? ?[A-Za-z](?![A-Za-z>]))",
    r" ?(?:[十百万亿兆萬億拾佰仟]|千(?![克米瓦卡])|(?:个|小时|年|天)?半|分之|之间)",
    r" ?[^\W\d_A-Za-z\u0080-\u024fμΩ㐀-鿿]|[打成折](?![开算印工包功为员绩立本了])| \(?(?:repeating|recurring)|的?循环",
    r"[\u0300-\u036f_^]|[A-Za-z](?<![gmslLth])(?![A-Za-z])|[A-Za-z]+[\d_^]",
])  # fmt: skip
NUMBER = "".join([
    r"(?:(?<![A-Za-z0-9_)\]}%°.^√/±≥+-])(?P<sign>[-+])|(?<![A-Za-z_^√/.±≥+-]))(?<![+×÷] )(?<!(?<![A-Za-z])[A-Za-z] - )",
    r"(?:(?P<whole>\d+)(?: | and |又)(?!\d{3} ?/)(?=\d+ ?/ ?\d))?",
    rf"(?P<top>{DECIMAL})(?:(?:[eE]| ?[×x*] ?10\^)(?P<power>[-+]?\d{{1,4}})(?!\d))?",
    rf"(?: ?/ ?(?P<bottom>{WHOLE}))?(?P<percent> ?(?:%|⟨? ?(?i:per ?cent|pct)(?![A-Za-z])⟩?))?",
    rf"(?: ?(?P<unit>(?:⟨(?! ?{SCALE}\b)[^⟩]*⟩|(?:{UNIT})(?![A-Za-z/]))(?:\^?-?[23])?))?",
    rf"(?!(?:{LINK})\.?\d)(?!{SPOILT})",
])  # fmt: skip
HAN = "[零〇一二两三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟]"
ENGLISH = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    "|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|(?:a )?hundred"
)
MEASURE = "(?:[平立]方)?(?:[厘分毫千]米|千克|公[斤里]|小时|分钟|[个只条张本元角分米克岁人天页颗块名倍次斤])?"
END = r"[.。!！]?\s*\Z"
SPAN = rf"[-\d.,/]*\d(?: ?(?:{UNITS}))?"  # one end of it
PIECE, BEFORE = r"[-+]?(?:[\d./]+|∞)", "A-Za-z_^√/.±≥+×÷-"
# What holds a number and is not read, in whole.
JUNK = "|".join([
    rf"[(\[{{] ?{PIECE}(?:(?: ?[;、，] ?|, |,(?!\d{{3}}(?!\d))){PIECE})+ ?[)\]}}]",  # (3, 4)
    r"\\[A-Za-z]+ ?(?:\{(?:[^{}]|\{[^{}]*\})*\} ?)+",  # other LaTeX
    rf"(?:{HAN}|\d)+分之\d+|(?<!也就)(?<!即)(?:[是为得剩有共:]|等于) ?(?:{HAN}+分之)?{HAN}+{MEASURE}{END}",
    rf"(?i:(?:\b(?:from|is|are|about)|:) ?){SPAN} to {SPAN}|[Bb]etween {SPAN} and {SPAN}",
    rf"(?i:\b(?:is|are|equals?|makes?)(?:[- ](?:{ENGLISH}))+(?! (?:ways|steps|reasons|cases|dozen))(?: [a-z]+)?{END})",
    rf"(?:(?<![{BEFORE}])[{BEFORE}]++(?:(?<=√)[{{(])?)?\d+(?:(?:{LINK})\.?\d+)*+",
])  # fmt: skip
# What says nothing about the number before it: exponents and names (cm^2, CO2, x_1), and all of 1,2,3 but the last.
SKIP = "|".join([
    r"(?:(?<=\w )|(?<=[㐀-鿿]))(?<!is )(?<![是为于得])\([^()]*[+×÷*=-][^()]*\)",  # 8 (5 + 3) apples
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
    return _number((_found(_plain(reply)) or [None])[-1])


def same_number(reply: str, reference: str) -> bool | None:
    """True where the last number of a reply is the reference; None where the reference is no number.

    A unit may be left out, but two that differ are two answers: 12 m is not 12 cm.
    """
    if (due := _whole(reference)) is None:
        return None
    found = last_number(reply)
    return found is not None and found.value == due.value and ("" in (found.unit, due.unit) or found.unit == due.unit)


def _found(plain: str) -> list[re.Match[str]]:
    """What holds a number, read or not."""
    return [each for each in SCAN.finditer(plain) if not each["skip"] and not re.fullmatch(r"\\\D*", each[0])]


def _unboxed(box: re.Match[str]) -> str:
    """The content of a box that holds one answer; any other box as it is, which is no number: 12, 13; 5!; x > 5."""
    listed = re.search(r"[,;] ?[A-Za-z\\]|\d ?!", box[1])
    return box[0] if listed or len(_found(box[1].rpartition("=")[2])) > 1 else box[1]


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
