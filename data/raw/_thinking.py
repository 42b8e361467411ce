"""Question, thinking and answer behind `thinking.jsonl`. Numbers in braces are drawn and worked out by `generate.py`.

A template names its drawn numbers with their ranges, then the values worked out from them.
"""

from collections.abc import Callable

# language, question, thinking, answer, ranges, values worked out
Numbers = dict[str, tuple[int, int]]
WORKED: list[tuple[str, str, str, str, Numbers, dict[str, Callable]]] = [
    ("zh", "{a} 个苹果，拿出 {b} 个，还剩多少？", "共有 {a} 个苹果，拿走 {b} 个，剩下 {a} - {b} = {c}。", "{c}",
     {"a": (15, 30), "b": (3, 12)}, {"c": lambda a, b: a - b}),
    ("zh", "一箱牛奶 {a} 盒，{b} 箱有多少盒？", "每箱 {a} 盒，{b} 箱就是 {a} × {b} = {c} 盒。", "一共 {c} 盒。",
     {"a": (6, 24), "b": (3, 9)}, {"c": lambda a, b: a * b}),
    ("zh", "电影 {a} 点开始，放 {b} 分钟，几点几分结束？",
     "{b} 分钟是 1 小时 {c} 分钟。{a} 点加 1 小时是 {d} 点，再加 {c} 分钟。", "{d} 点 {c} 分结束。",
     {"a": (13, 20), "b": (75, 110)}, {"c": lambda a, b: b - 60, "d": lambda a, b: a + 1}),
    ("zh", "一件衬衫 {a}0 元，打八折后多少钱？", "八折就是原价的 0.8。{a}0 × 0.8 = {c}。", "打折后 {c} 元。",
     {"a": (6, 30)}, {"c": lambda a: a * 8}),
    ("zh", "{a} 和 {b} 哪个数离 50 更近？", "50 - {a} = {c}，{b} - 50 = {d}。{c} 比 {d} 小，所以 {a} 更近。",
     "{a} 更近。",
     {"a": (41, 48), "b": (61, 69)}, {"c": lambda a, b: 50 - a, "d": lambda a, b: b - 50}),
    ("en", "A book has {a} pages and I read {b} a day. How many full days do I read, and what is left?",
     "{b} times {c} is {d}, and one day more would be too much. {a} - {d} = {e}.",
     "{c} full days, and then {e} pages are left.",
     {"a": (100, 140), "b": (15, 18)},
     {"c": lambda a, b: a // b, "d": lambda a, b: a // b * b, "e": lambda a, b: a % b}),
    ("en", "What is {a} percent of {b}00?", "One percent of {b}00 is {b}. So {a} percent is {a} × {b} = {c}.", "{c}",
     {"a": (11, 45), "b": (3, 9)}, {"c": lambda a, b: a * b}),
    ("en", "A garden is {a} m long and {b} m wide. How long is the fence around it?",
     "The fence goes along two lengths and two widths: 2 × ({a} + {b}) = {c}.", "The fence is {c} m long.",
     {"a": (12, 30), "b": (5, 11)}, {"c": lambda a, b: 2 * (a + b)}),
    ("en", "Is {a}1 × {b} more than 300?", "{a}1 × {b} = {c}. Compared with 300 that is larger.", "Yes, it is {c}.",
     {"a": (6, 9), "b": (5, 8)}, {"c": lambda a, b: (a * 10 + 1) * b}),
    ("en", "I was born in {a} and my sister {b} years later. How old does she turn in 2030?",
     "My sister was born in {a} + {b} = {c}. In 2030 she turns 2030 - {c} = {d}.", "She turns {d}.",
     {"a": (1990, 2005), "b": (2, 9)}, {"c": lambda a, b: a + b, "d": lambda a, b: 2030 - a - b}),
]  # fmt: skip

# language, question, thinking, answer
WRITTEN: list[tuple[str, str, str, str]] = [
    ("zh", "小明比小红高，小红比小刚高，谁最矮？", "按高矮排：小明 > 小红 > 小刚。排在最后的是小刚。", "小刚最矮。"),
    ("zh", "明天的昨天是星期三，今天星期几？", "明天的昨天就是今天，所以今天是星期三。", "星期三。"),
    ("zh", "一斤棉花和一斤铁，哪个重？", "题目说的都是一斤，重量一样，只是体积不同。", "一样重。"),
    ("zh", "“他把书放在桌上，因为它太重了。”这里的“它”指什么？",
     "书会因为太重被放下，桌子不会。所以“它”指书。", "“它”指书。"),
    ("zh", "从 3、8、12、15 里找出不是 3 的倍数的数。", "3、12、15 都能被 3 整除，8 ÷ 3 有余数。", "8。"),
    ("zh", "列表 [4, 1, 3] 从小到大排好是什么？", "最小的是 1，然后是 3，最大的是 4。", "[1, 3, 4]"),
    ("zh", "开会说“最快周五，最晚下周二”，周末不上班，一共有几个可选的工作日？",
     "周五、下周一、下周二可以，周六周日不算。一共三天。", "3 个工作日。"),
    ("zh", "把“我昨天去了图书馆”改成将来的说法。", "“昨天”要换成“明天”，“去了”要换成“要去”。", "我明天要去图书馆。"),
    ("zh", "手机 20% 的电能用 2 小时，充满能用多久？", "100% 是 20% 的 5 倍，2 × 5 = 10。", "大约 10 小时。"),
    ("zh", "下面哪个词和“高兴”意思相反：快乐、难过、开心？",
     "快乐和开心都是高兴的意思，只有难过相反。", "难过。"),
    ("en", "Tom is taller than Ann. Ann is taller than Joe. Who is the tallest?",
     "Tom > Ann > Joe, so Tom comes first.", "Tom is the tallest."),
    ("en", "If all bloops are red and Max is a bloop, what colour is Max?",
     "Every bloop is red. Max is one of them, so Max is red too.", "Max is red."),
    ("en", "Which word does not belong: apple, pear, chair, plum?",
     "Apple, pear and plum are fruit. A chair is furniture.", "Chair."),
    ("en", "What does this print? x = [1, 2]; y = x; y.append(3); print(len(x))",
     "y is the same list as x, not a copy. After append it has three items.", "3"),
    ("en", "A shop opens at 9 and closes at 17, with one hour for lunch. How long is it open?",
     "From 9 to 17 is 8 hours. Minus one hour for lunch leaves 7.", "It is open for 7 hours."),
    ("en", "The trophy does not fit in the bag because it is too small. What is too small?",
     "Something does not fit when the container is too small. The container is the bag.", "The bag."),
    ("en", "Put these in order of size: a lake, a drop, the ocean.",
     "A drop is the smallest. A lake is smaller than the ocean.", "A drop, a lake, the ocean."),
    ("en", "What is the next number: 2, 4, 8, 16?", "Each number is twice the one before. 16 × 2 = 32.", "32"),
    ("en", "Rewrite in the past tense: She writes a letter and sends it.",
     "Writes becomes wrote, sends becomes sent.", "She wrote a letter and sent it."),
    ("en", "My train leaves at 10:05 and the walk takes 20 minutes. When must I go, with 10 minutes to spare?",
     "20 + 10 = 30 minutes before 10:05. That is 9:35.", "Leave at 9:35."),
]  # fmt: skip
