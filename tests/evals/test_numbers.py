"""course_utils.evals.numbers: numbers as people write them, and nothing wrong that counts as right."""

from fractions import Fraction
from time import perf_counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from course_utils import metrics
from course_utils.evals import numbers


class TestOneNumber:
    """Numbers as people write them: a text that is a number is read whole, any other is None and no part of it."""

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("8", 8),
            (" 8.\n", 8),
            ("8。", 8),
            ("+5", 5),
            ("-0", 0),
            (".5", "1/2"),
            ("-.5", "-1/2"),
            ("8.0", 8),
            ("2/6", "1/3"),
            ("2 / 6", "1/3"),
            ("1,200/3", 400),
            # thousands
            ("9,500", 9500),
            ("1,234,567.5", "1234567.5"),
            ("9 500", 9500),
            ("9\u202f500", 9500),
            ("9\u00a0500\u00a0000", 9500000),
            (r"\boxed{$9{,}500}", 9500),
            (r"\boxed{\$9{,}500}", 9500),
            (r"9,\!500", 9500),
            (r"9\,500", 9500),
            (r"9\ 500", 9500),
            # mixed numbers and fractions
            ("1 1/2", "3/2"),
            ("-1 1/2", "-3/2"),
            ("1 and 1/2", "3/2"),
            ("1½", "3/2"),
            ("1 ½", "3/2"),
            ("½", "1/2"),
            ("-½", "-1/2"),
            ("2又1/3", "7/3"),
            (r"\frac12", "1/2"),
            (r"\frac{1}{2}", "1/2"),
            (r"\dfrac{1}{2}", "1/2"),
            (r"-\frac{1}{2}", "-1/2"),
            (r"\frac{-1}{2}", "-1/2"),
            (r"\tfrac1{2}", "1/2"),
            (r"1\frac{1}{2}", "3/2"),
            (r"\boxed{\frac{1}{2}}", "1/2"),
            (r"\frac{1{,}000}{3}", "1000/3"),
            # money, signs
            ("-$3", -3),
            ("$-3", -3),
            ("$-3$", -3),
            (r"-\$3", -3),
            ("-€3", -3),
            ("3€", 3),
            ("￥3", 3),
            ("−5", -5),
            ("–5", -5),
            ("－５", -5),
            ("负5", -5),
            ("minus 5", -5),
            # powers of ten
            ("1.5e3", 1500),
            ("1.5E-3", "0.0015"),
            ("1e400", 10**400),
            (r"1.5 \times 10^3", 1500),
            (r"1.5\cdot10^{-3}", "0.0015"),
            ("1.5×10³", 1500),
            ("1.5 × 10⁻³", "0.0015"),
            ("1.5 x 10^3", 1500),
            *((form, 1000) for form in ("10^3", "10^{3}", "10³", r"\boxed{10^3}")),
            *((form, "-3/4") for form in (r"\frac{3}{-4}", r"{-3 \over 4}")),
            *((form, -3) for form in ("-₹3", "-Rs 3", "-US$3", "-CHF 3", "−₽3")),
            # a percent is a hundredth
            ("12%", "3/25"),
            (r"12\%", "3/25"),
            ("12 %", "3/25"),
            ("１２％", "3/25"),
            ("12 percent", "3/25"),
            ("12 per cent", "3/25"),
            ("12 pct", "3/25"),
            # units
            (r"12\text{ cm}^2", 12),
            (r"12~\mathrm{m/s}", 12),
            (r"\boxed{12\text{ cm}^2}", 12),
            (r"5\text{ apples}", 5),
            (r"\text{12 cm}", 12),
            ("12 cm", 12),
            ("12cm^3", 12),
            ("12 m²", 12),
            ("12 m2", 12),
            (r"30^\circ", 30),
            (r"30^{\circ}", 30),
            ("30°C", 30),
            # digits and marks of other kinds
            ("９，５００", 9500),
            ("１．５", "1.5"),
            ("٣", 3),
            ("𝟖", 8),
            ("9\u200b500", 9500),
            ("**8**", 8),
            ("`8`", 8),
            (r"\(8\)", 8),
            (r"\[ 8 \]", 8),
            ("$$8$$", 8),
            (r"\mathbf{8}", 8),
        ],
    )
    def test_is_read(self, text, number):
        assert numbers.parse_number(text) == Fraction(number)
        assert numbers.same_number(f"So it is {text}", str(Fraction(number)))

    @pytest.mark.parametrize(
        "text",
        [
            *("", "nine", "x", "-", ".", "%", "--5", "±3", "5 apples", "8 9", "5 or 6", "1/0", "1 2/0"),
            *("1,2,3", "1,2", "12,5", "1,23", "1,2345", "1,20,300", "1.234,5", "1.234.567", "1'234", "1_000"),
            *("(3,4)", "(3, 4)", "[3, 4]", r"\{3, 4\}", r"\left(3, -4\right)", "3:4", "3 : 4"),
            *("2-3", "2–3", "2 - 3", "2~3", "2～3", "1-1/2", "3+4", "3 × 4", r"3 \times 4", "3 plus 4", "3加4", "2**3"),
            *("12:30", "2024-01-05", "1/2/2024", "1.2.3", "192.168.0.1", "v2", "Qwen3", "COVID-19", "5'3"),
            *("2^10", "2^{10}", "2³", "√2", r"\sqrt{2}", r"3\sqrt{2}", r"\sqrt[3]{8}", r"\frac{3\sqrt{2}}{4}"),
            *("3x", "3x^2", "12π", r"12\pi", r"\frac{x}{2}", "x/2", r"\binom{5}{2}", "3 5/2", "3i", "2 125/1000"),
            *("0.333...", "0.333…", "0.(3)", r"0.\overline{3}", r"0.\dot{3}", "0.3\u0305"),
            *("一百二十", "3万", "3.5万", "3万5千", "2亿", "3百", "5分之2", "百分之12", "三分之一"),
            *("3个半", "3元5角", "2小时30分钟", "2 hours 30 minutes", "1 m 20 cm", "5 ft 3 in"),
            *("3 million", r"3\text{ million}", "3k", "3K", "3M", "1.5bn", "5 dozen", "3 tenths", "2 thirds"),
            *("3 and a half", "9" * 5000, "1e99999", "1e99999999999"),
        ],
    )  # fmt: skip
    def test_is_none(self, text):
        assert numbers.parse_number(text) is None

    def test_metrics_knows_it_by_the_same_name(self):
        assert metrics.parse_number is numbers.parse_number


class TestLastNumber:
    """Numbers as people write them: the last of a reply, or None where that is not understood."""

    @pytest.mark.parametrize(
        ("reply", "number"),
        [
            ("9 - 2 = 7", 7),
            ("4 x 20 = 80", 80),
            ("3加4等于7", 7),
            ("3 apples + 4 apples = 7 apples", 7),
            ("$5 - $3 = $2", 2),
            ("20 = 80/4", 20),
            ("1,2,3", 3),
            ("1, 2, 3", 3),
            ("3、4", 4),
            ("得到3，4", 4),
            ("x_1 = 5 and x_2 = 6, not x_3", 6),
            ("8 cm^2", 8),
            ("In cm^2: 8 cm2", 8),
            ("8 tons of CO2", 8),
            ("面积是12平方厘米。", 12),
            ("12千克", 12),
            ("一共12千米", 12),
            ("温度是-5度", -5),
            ("x=-3", -3),
            ("x = - 3", -3),
            ("- 8 apples", 8),
            ("The answer - 8", 8),
            ("* 8 apples", 8),
            ("Step 1: 30", 30),
            ("第3题：40", 40),
            ("| 3 | 4 |", 4),
            ("#### 8", 8),
            ("Answer:**8**", 8),
            ("is**8**.", 8),
            (r"is\boxed{8}", 8),
            (r"= -\boxed{8}", -8),
            (r"\boxed{x=-\frac{1}{2}}", "-1/2"),
            (r"x = 8 \tag{1}", 8),
            (r"\begin{aligned} x &= 5 \\ y &= 6 \end{aligned}", 6),
            (r"9 \\ 500", 500),
            (r"\text{The answer is }8", 8),
            ("It's 8...", 8),
            ("8个，万一不够呢", 8),
            ('{"answer": 8}', 8),
            ("-US$3", -3),
            ("the 5th", 5),
            ("8kg", 8),
        ],
    )
    def test_is_found(self, reply, number):
        assert numbers.last_number(reply).value == Fraction(number)

    @pytest.mark.parametrize(
        ("reply", "part"),
        [
            (r"So \boxed{$9{,}500}", "500"),
            ("1 1/2", "1/2"),
            ("-$3", "3"),
            (r"12\text{ cm}^2", "2"),
            ("12 m²", "2"),
            ("一共是3万元", "3"),
            ("3加4等于七。", "4"),
            ("3加4等于一百二十", "4"),
            ("3加4是七个。", "4"),
            ("3 and 4 make twenty-one", "4"),
            ("3 and 4 are seven.", "4"),
            ("1.234,5", "5"),
            ("1.234,5", "1.234"),
            ("1,23", "23"),
            ("at 12:30", "30"),
            ("see version 1.2.3", "3"),
            ("9-2", "2"),
            ("9 - 2", "2"),
            ("7 = 3 + 4", "4"),
            ("between 2–3", "3"),
            ("(3,4)", "4"),
            ("the point (3, 4).", "4"),
            ("[1, 2, 3]", "3"),
            ("5²", "5"),
            ("5²", "52"),
            ("1½", "1/2"),
            ("1½", "11/2"),
            ("0.333...", "0.333"),
            ("0.(3)", "3"),
            (r"0.\overline{3}", "3"),
            (r"\sqrt{2}", "2"),
            (r"12\pi", "12"),
            ("3x", "3"),
            ("3元5角", "5"),
            ("2 hours 30 minutes", "30"),
            ("3 million", "3"),
            ("5分之2", "2"),
            ("温度是-5度", "5"),
            ("负5", "5"),
            ("12%", "12"),
            ("√ 2", "2"),
            (r"\sqrt[3]{8}", "8"),
            (r"\sqrt[3] 8", "8"),
            (r"9 \\ 500", "9500"),
            ("is.5", "5"),
            ("3\u202f000", "0"),
        ],
    )
    def test_a_part_of_what_was_written_is_not_right(self, reply, part):
        assert numbers.parse_number(part) is not None
        assert metrics.same_answer(reply, part) is False

    @pytest.mark.parametrize(
        ("part", "replies"),
        {
            "sign lost": {
                "2": ["x = \\pm 2", "± 2", "+/- 2", "\\mp 2"],
                "3": ["-₹3", "-Rs 3", "−฿3", "-CHF 3", "± $3"],
                "300": ["-₩300"],
            },
            "scale": {
                "5": [
                    "5萬",
                    "5億",
                    "5만",
                    "5천",
                    "$5m",
                    "£5m",
                    "5-thousand",
                    "5‰",
                    "5成",
                    "5 lakh",
                    "5 crore",
                    "$5 m",
                    "5 Mrd.",
                    "5 Mio",
                    "5 млн",
                    "5 grand",
                    "5 pct",
                    "5 bps",
                    "5 basis points",
                    "5 ppm",
                    "5 лет",
                ],
                "12": ["12打", "12成"],
                "8": ["8折。"],
            },
            "compound": {
                "5": [
                    "3个小时5分钟",
                    "3块5",
                    "3块5毛",
                    "3小时又5分钟",
                    "3斤5两",
                    "3个月零5天",
                    "3英尺5英寸",
                    "3平方米5平方分米",
                ],
                "200": ["1公里200米", "1 km and 200 m"],
                "500": ["2升500毫升", "3 kg, 500 g"],
                "30": ["3 hours, 30 minutes", "3 hrs 30 mins", "3 hr 30 min", "3h 30m"],
                "50": ["$5 and 50 cents", "5 dollars, 50 cents"],
                "3": ["5 ft. 3 in.", "2 lb. 3 oz.", "1 week, 3 days", "5 hundred and 3"],
                "1": ["2 yards 1 foot"],
                "2": ["1 gallon 2 quarts"],
            },
            "remainder": {
                "3": ["7余3", "7余数3", "7……3", "7⋯3", "7......3", "7\\cdots\\cdots 3", "7 R 3", "7 remainder 3"],
            },
            "function": {
                "2": ["sqrt(2)", "log 2", "\\boxed{\\ln 2}", "\\log 2", "ln(2)"],
                "3": ["f(3)", "3 pi", "3*pi", "max(3)"],
                "30": ["sin(30)", "\\cos 30^\\circ"],
                "8": ["\\boxed{\\log_2 8}", "log_2 8", "\\log_{2} 8"],
                "5": ["\\boxed{5!}"],
            },
            "part of a notation": {
                "4": ["{3 \\over 4}", "3 out of 4"],
                "0.3": ["0.3 repeating", "0.3 recurring"],
                "1010": ["1010₂"],
                "2": ["1∶2", "1比2"],
            },
            "interval, inequality, equation": {
                "3": ["(-∞, 3]", "[-\\infty, 3)", "\\boxed{y = 2x + 3}", "x + 3", "n - 3"],
                "2": ["[2, ∞)"],
                "5": ["\\boxed{x \\geq 5}", "x > 5", "x>5", "x ≤ 5", "x != 5", "5 < x", "\\boxed{x<5}"],
                "13": ["\\boxed{12, 13}", "\\boxed{12 \\text{ and } 13}", "\\boxed{x = 12, y = 13}"],
                "15": ["10到15", "10至15", "from 10 to 15", "between 10 and 15", "在10和15之间"],
            },
        }.items(),
    )
    def test_no_part_of_a_larger_whole_is_right(self, part, replies):
        """Numbers as people write them: signs, scales, compounds, remainders, functions and intervals count whole."""
        for number, written in replies.items():
            for reply in written:
                assert not metrics.same_answer(reply, number), (part, reply)
                assert not metrics.same_answer(f"So it is {reply}", number), (part, reply)

    @pytest.mark.parametrize(
        ("reply", "number"),
        [
            ("答案是5。这是两个数的和。", 5),
            ("面积是12平方厘米，因为它是三角形。", 12),
            ("结果是12，这是四舍五入后的值。", 12),
            ("共有3个,也就是三个", 3),
            ("12（十二）", 12),
            ("12元，即十二元", 12),
            ("一共12个，是总数的三分之一，十分简单！", 12),
            ("12个（12=3×4）。", 12),
            ("The total is 12. There are two ways to check this.", 12),
            ("The answer is 12, and there are three reasons.", 12),
            ("12 (twelve)", 12),
            ("She has 8 (5+3) apples.", 8),
            ("In 5 hours, 300 miles are driven.", 300),
            ("f(3) = 5", 5),
            ("log_2 8 = 3", 3),
            (r"\boxed{3 + 4 = 7}", 7),
            ("x > 5, so x = 6", 6),
            ("<b>5</b>", 5),
            ("=> 5", 5),
            ("> 5", 5),
            ("把10分成2份，每份5个", 5),
        ],
    )
    def test_words_and_remarks_around_a_number_do_not_void_it(self, reply, number):
        """Numbers as people write them: words that are no figure, and remarks in brackets, say nothing about it."""
        assert metrics.same_answer(reply, str(number))

    def test_a_unit_may_be_left_out_and_two_that_differ_are_two_answers(self):
        for reply in ("12", "12 cm", r"It is 12\text{ cm}.", "12 long"):
            assert metrics.same_answer(reply, "12 cm")
        for reply in ("12 m", "12 cm^2", r"12\text{ m}", "12 kg"):
            assert not metrics.same_answer(reply, "12 cm")
        assert metrics.same_answer("12 m²", r"12\text{ m}^2") and metrics.same_answer("12 m", "12")

    def test_a_percent_is_a_hundredth(self):
        assert metrics.same_answer("12%", "12%") and metrics.same_answer("It is 12 percent.", r"12\%")
        assert metrics.same_answer("0.12", "12%") and not metrics.same_answer("12", "12%")


def grouped(mark):
    return lambda text: f"{int(text):,}".replace(",", mark)


WHOLE = {
    "plain": str,
    "commas": grouped(","),
    "LaTeX commas": grouped("{,}"),
    "LaTeX commas without space": grouped(r",\!"),
    "thin spaces": grouped("\u2009"),
    "LaTeX thin spaces": grouped(r"\,"),
    "full-width": lambda text: text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
}
AROUND = ["{}", "**{}**", "${}$", r"\({}\)", r"\boxed{{{}}}", r"\boxed{{\text{{{}}}}}", "`{}`", " {}.", "{}。"]
BEHIND = ["", " cm", r"\text{ cm}^2", " m²", "kg"]
SENTENCES = ["So the answer is {}", "答案是{}", "= {}", "3 + 4 = 7, 答案：{}", "#### {}\n", "There are {} left!"]
SIGNS = {1: ["", "+"], -1: ["-", "−", "–", "－"]}
naturals = st.integers(0, 10**9)
signs = st.sampled_from([1, -1])


@given(st.data())
def test_whatever_form_a_number_is_written_in_it_is_read_back_and_its_neighbours_are_not(data):
    """Numbers as people write them: a round trip through every form."""
    draw, value, sign = data.draw, Fraction(data.draw(naturals)), data.draw(signs)
    written = WHOLE[draw(st.sampled_from(list(WHOLE)))](str(value.numerator))
    kind = draw(st.sampled_from(["whole", "decimal", "fraction", "LaTeX", "mixed", "LaTeX mixed", "power", "percent"]))
    top, bottom = sorted(draw(st.lists(st.integers(1, 9), min_size=2, max_size=2, unique=True)))
    if kind == "decimal":
        places = draw(st.text("0123456789", min_size=1, max_size=6))
        written, value = f"{written}.{places}", value + Fraction(int(places), 10 ** len(places))
    elif kind == "fraction":
        assume(not any(space in written for space in ("\u2009", r"\,")))  # 2 125/1000 may be two numbers
        written, value = f"{written}/{bottom}", value / bottom
    elif kind == "LaTeX":
        form = draw(st.sampled_from([r"\frac{%d}{%d}", r"\dfrac{%d}{%d}", r"\frac%d%d", r"\tfrac{%d}%d"]))
        written, value = form % (top, bottom), Fraction(top, bottom)
    elif kind in ("mixed", "LaTeX mixed"):
        form = " %d/%d" if kind == "mixed" else r"\frac{%d}{%d}"
        written, value = str(value.numerator) + form % (top, bottom), value + Fraction(top, bottom)
    elif kind == "power":
        power = draw(st.integers(-30, 30))
        form = draw(st.sampled_from(["e%d", "E%d", r" \times 10^{%d}", " × 10^%d", "*10^%d"]))
        written, value = str(value.numerator) + form % power, value * Fraction(10) ** power
    elif kind == "percent":
        written, value = written + draw(st.sampled_from(["%", r"\%", " %", "％"])), value / 100
    behind = draw(st.sampled_from(BEHIND)) if kind != "percent" else ""
    around = draw(st.sampled_from(AROUND))
    assume(not (behind and r"\text" in around))  # nobody writes one in the other
    text = around.format(draw(st.sampled_from(SIGNS[sign])) + written + behind)
    assert numbers.parse_number(text) == sign * value, text
    reply, due = draw(st.sampled_from(SENTENCES)).format(text), str(sign * value)
    assert metrics.same_answer(reply, due), reply
    near = [value + 1, value - 1, value * 10, value / 10, value * 1000, value / 1000, Fraction(value.numerator)]
    for other in {sign * near for near in near} | {-sign * value, Fraction(str(value.numerator)[-3:])}:
        assert metrics.same_answer(reply, str(other)) is (other == sign * value), (reply, other)


@given(st.text(alphabet="0123456789.,/-+ ()[]{}^\\%$€xe×一百万之个是frac\n*_:~'’"))
def test_no_text_raises_and_a_number_is_the_last_of_itself(text):
    """Numbers as people write them: none raises, and `parse_number` and the last number of a reply agree."""
    number, last = numbers.parse_number(text), numbers.last_number(text)
    assert number is None or (last is not None and last.value == number)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6), st.sampled_from([",", ".", ":", "-", "'", "_", "^", "·"]))
def test_digits_glued_by_a_sign_are_no_number_but_a_decimal(parts, sign):
    """Numbers as people write them: times, dates, versions, ranges, lists."""
    text = sign.join(map(str, parts))
    if sign != "." or len(parts) > 2:
        assert numbers.parse_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("9" * 20_000, "a" * 20_000, "1," * 10_000, "1 " * 10_000, "(1, " * 5000, "\\a{" * 5000, "*a" * 10_000),
        *("一" * 20_000, "1." * 10_000, "x^" * 10_000, "√" * 10_000, "\\boxed{" * 3000, "3 + " * 5000, "-" * 20_000),
    ],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_a_long_reply_takes_no_long_time(text):
    """Numbers as people write them: a model in a loop writes such replies."""
    start = perf_counter()
    numbers.last_number(text)
    assert perf_counter() - start < 5
