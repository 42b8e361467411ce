"""What counts as a Chinese character, in one place."""

import re

# CJK ideographs: extension A, the main block, compatibility forms, and the planes of the rare ones (extension B on).
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
