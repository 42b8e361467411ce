"""What counts as a Chinese character, and whether anything of a text can be seen: each in one place."""

import re
import unicodedata

# CJK ideographs: extension A, the main block, compatibility forms, and the planes of the rare ones (extension B on).
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
INVISIBLE = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")  # letters and signs that show nothing


def shows(text: str) -> bool:
    """Whether anything of a text can be seen: a letter, a digit, a sign, or one that is newer than Python's tables."""
    kinds = (unicodedata.category(sign) for sign in INVISIBLE.sub("", text))
    return any(kind[0] in "LNPS" or kind == "Cn" for kind in kinds)
