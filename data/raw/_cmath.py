"""Chinese word problems in CMATH's shape: grade, steps, question, its numbers, answer, worked steps, what must hold.

The answer is a number, or a (numerator, denominator) pair that is written as a fraction.
"""

from collections.abc import Callable
from typing import NamedTuple


class Problem(NamedTuple):
    grade: int
    steps: int
    text: str
    ranges: dict[str, tuple[int, int]]
    answer: Callable
    worked: Callable
    holds: Callable = lambda **numbers: True


def less(a: int, b: int, **rest: int) -> bool:
    return b < a


PROBLEMS: list[Problem] = [
    # 一年级
    Problem(
        1,
        1,
        "乐乐有{a}颗糖，吃了{b}颗，还剩几颗？",
        {"a": (8, 20), "b": (2, 9)},
        lambda a, b: a - b,
        lambda a, b: f"剩下的糖：{a} - {b} = {a - b}。",
        less,
    ),
    Problem(
        1,
        1,
        "停车场原来有{a}辆车，又开来{b}辆，现在一共有多少辆？",
        {"a": (5, 40), "b": (3, 30)},
        lambda a, b: a + b,
        lambda a, b: f"原来的加上开来的：{a} + {b} = {a + b}。",
    ),
    Problem(
        1,
        1,
        "小芳折了{a}只纸鹤，小美折了{b}只，小芳比小美多折多少只？",
        {"a": (15, 60), "b": (5, 30)},
        lambda a, b: a - b,
        lambda a, b: f"求多多少，用减法：{a} - {b} = {a - b}。",
        less,
    ),
    Problem(
        1,
        1,
        "果盘里的草莓被吃掉{b}个后还有{a}个，原来有多少个？",
        {"a": (4, 30), "b": (3, 20)},
        lambda a, b: a + b,
        lambda a, b: f"剩下的加上吃掉的：{a} + {b} = {a + b}。",
    ),
    Problem(
        1,
        2,
        "公交车上有{a}人，到站下去{b}人，又上来{c}人，车上现在有多少人？",
        {"a": (15, 40), "b": (3, 12), "c": (2, 15)},
        lambda a, b, c: a - b + c,
        lambda a, b, c: f"先算下车后：{a} - {b} = {a - b}，再算上车后：{a - b} + {c} = {a - b + c}。",
    ),
    Problem(
        1,
        2,
        "同学们排队，丁丁前面有{a}人，后面有{b}人，这一队一共有多少人？",
        {"a": (3, 15), "b": (3, 15)},
        lambda a, b: a + b + 1,
        lambda a, b: f"先算前后的人：{a} + {b} = {a + b}，再加上丁丁自己：{a + b} + 1 = {a + b + 1}。",
    ),
    Problem(
        1,
        1,
        "一支铅笔{a}角，一块橡皮比铅笔贵{b}角，橡皮多少角？",
        {"a": (5, 20), "b": (2, 9)},
        lambda a, b: a + b,
        lambda a, b: f"橡皮更贵，用加法：{a} + {b} = {a + b}。",
    ),
    # 二年级
    Problem(
        2,
        1,
        "每个笼子里有{a}只兔子，{b}个笼子里有多少只兔子？",
        {"a": (2, 9), "b": (2, 9)},
        lambda a, b: a * b,
        lambda a, b: f"每个笼子的只数乘笼子数：{a} × {b} = {a * b}。",
    ),
    Problem(
        2,
        1,
        "把{a}块饼干平均分给{b}个小朋友，每人分到多少块？",
        {"a": (12, 72), "b": (2, 9)},
        lambda a, b: a // b,
        lambda a, b: f"平均分，用除法：{a} ÷ {b} = {a // b}。",
        lambda a, b: a % b == 0,
    ),
    Problem(
        2,
        2,
        "妈妈买了{a}盒牛奶，每盒{b}元，付了100元，应找回多少元？",
        {"a": (3, 9), "b": (4, 9)},
        lambda a, b: 100 - a * b,
        lambda a, b: f"先算花了多少元：{a} × {b} = {a * b}，再算找回多少元：100 - {a * b} = {100 - a * b}。",
    ),
    Problem(
        2,
        2,
        "二（1）班有男生{a}人、女生{b}人，{c}人分成一组，可以分成多少组？",
        {"a": (15, 25), "b": (15, 25), "c": (4, 8)},
        lambda a, b, c: (a + b) // c,
        lambda a, b, c: f"先算总人数：{a} + {b} = {a + b}，再算组数：{a + b} ÷ {c} = {(a + b) // c}。",
        lambda a, b, c: (a + b) % c == 0,
    ),
    Problem(
        2,
        2,
        "王奶奶养了{a}只鸡，养的鸭是鸡的{b}倍，鸡和鸭一共多少只？",
        {"a": (4, 12), "b": (2, 6)},
        lambda a, b: a + a * b,
        lambda a, b: f"先算鸭的只数：{a} × {b} = {a * b}，再算一共：{a} + {a * b} = {a + a * b}。",
    ),
    Problem(
        2,
        1,
        "一根绳子长{a}米，每{b}米剪一段，可以剪成多少段？",
        {"a": (12, 63), "b": (2, 9)},
        lambda a, b: a // b,
        lambda a, b: f"求里面有几个{b}米，用除法：{a} ÷ {b} = {a // b}。",
        lambda a, b: a % b == 0,
    ),
    Problem(
        2,
        2,
        "图书角有故事书{a}本，借出{b}本，又还回来{c}本，现在有多少本？",
        {"a": (40, 90), "b": (10, 30), "c": (5, 20)},
        lambda a, b, c: a - b + c,
        lambda a, b, c: f"先算借出后：{a} - {b} = {a - b}，再算还回后：{a - b} + {c} = {a - b + c}。",
    ),
    # 三年级
    Problem(
        3,
        1,
        "一个长方形花坛长{a}米，宽{b}米，它的面积是多少平方米？",
        {"a": (8, 25), "b": (3, 12)},
        lambda a, b: a * b,
        lambda a, b: f"面积是长乘宽：{a} × {b} = {a * b}。",
        less,
    ),
    Problem(
        3,
        2,
        "一块长方形手帕长{a}厘米，宽{b}厘米，它的周长是多少厘米？",
        {"a": (20, 40), "b": (10, 25)},
        lambda a, b: 2 * (a + b),
        lambda a, b: f"先算长加宽：{a} + {b} = {a + b}，再乘2：{a + b} × 2 = {(a + b) * 2}。",
        less,
    ),
    Problem(
        3,
        2,
        "工人叔叔每天修路{a}米，修了{b}天，还剩{c}米没修，这条路全长多少米？",
        {"a": (25, 90), "b": (4, 12), "c": (30, 150)},
        lambda a, b, c: a * b + c,
        lambda a, b, c: f"先算已修的：{a} × {b} = {a * b}，再加上没修的：{a * b} + {c} = {a * b + c}。",
    ),
    Problem(
        3,
        1,
        "一个蛋糕平均切成{b}块，哥哥吃了{a}块，哥哥吃了这个蛋糕的几分之几？",
        {"a": (2, 5), "b": (6, 12)},
        lambda a, b: (a, b),
        lambda a, b: f"吃了的块数除以总块数：{a} ÷ {b} = {a}/{b}。",
    ),
    Problem(
        3,
        2,
        "一张彩纸，做花用去{a}/{c}，做旗子用去{b}/{c}，一共用去这张纸的几分之几？",
        {"a": (1, 4), "b": (1, 4), "c": (9, 13)},
        lambda a, b, c: (a + b, c),
        lambda a, b, c: f"分母不变，分子相加：{a}/{c} + {b}/{c} = {a + b}/{c}。",
    ),
    Problem(
        3,
        2,
        "食堂运来{a}袋大米，每袋{b}千克，吃了{c}千克，还剩多少千克？",
        {"a": (6, 15), "b": (20, 50), "c": (50, 110)},
        lambda a, b, c: a * b - c,
        lambda a, b, c: f"先算运来的：{a} × {b} = {a * b}，再算剩下的：{a * b} - {c} = {a * b - c}。",
    ),
    Problem(
        3,
        1,
        "电影从下午{a}时开始，放映了{b}分钟，用秒表示，一共放映了多少秒？",
        {"a": (1, 5), "b": (75, 120)},
        lambda a, b: b * 60,
        lambda a, b: f"1分钟是60秒：{b} × 60 = {b * 60}。",
    ),
    Problem(
        3,
        2,
        "{a}箱蜂蜜共有{b}瓶，照这样计算，{c}箱蜂蜜有多少瓶？",
        {"a": (3, 6), "b": (24, 72), "c": (7, 12)},
        lambda a, b, c: b // a * c,
        lambda a, b, c: f"先算一箱的瓶数：{b} ÷ {a} = {b // a}，再算{c}箱的：{b // a} × {c} = {b // a * c}。",
        lambda a, b, c: b % a == 0,
    ),
    Problem(
        3,
        2,
        "爷爷今年{a}岁，是小军年龄的{b}倍，爷爷比小军大多少岁？",
        {"a": (60, 81), "b": (6, 9)},
        lambda a, b: a - a // b,
        lambda a, b: f"先算小军的年龄：{a} ÷ {b} = {a // b}，再算相差几岁：{a} - {a // b} = {a - a // b}。",
        lambda a, b: a % b == 0,
    ),
    # 四年级
    Problem(
        4,
        1,
        "一列火车每小时行{a}千米，{b}小时行多少千米？",
        {"a": (80, 160), "b": (3, 12)},
        lambda a, b: a * b,
        lambda a, b: f"路程是速度乘时间：{a} × {b} = {a * b}。",
    ),
    Problem(
        4,
        2,
        "甲、乙两车同时从两地相向而行，甲车每小时行{a}千米，乙车每小时行{b}千米，{c}小时后相遇，两地相距多少千米？",
        {"a": (50, 90), "b": (45, 85), "c": (2, 6)},
        lambda a, b, c: (a + b) * c,
        lambda a, b, c: f"先算两车每小时共行：{a} + {b} = {a + b}，再算{c}小时共行：{a + b} × {c} = {(a + b) * c}。",
    ),
    Problem(
        4,
        2,
        "学校买来{a}张课桌，每张{b}元，又买来同样多的椅子，每把{c}元，一共花了多少元？",
        {"a": (20, 45), "b": (85, 120), "c": (35, 60)},
        lambda a, b, c: a * (b + c),
        lambda a, b, c: f"先算一套桌椅的价钱：{b} + {c} = {b + c}，再算{a}套的：{b + c} × {a} = {(b + c) * a}。",
    ),
    Problem(
        4,
        2,
        "李叔叔{a}分钟打字{b}个，张阿姨每分钟比他多打{c}个，张阿姨每分钟打多少个字？",
        {"a": (5, 12), "b": (300, 900), "c": (5, 20)},
        lambda a, b, c: b // a + c,
        lambda a, b, c: f"先算李叔叔每分钟打的字：{b} ÷ {a} = {b // a}，再算张阿姨的：{b // a} + {c} = {b // a + c}。",
        lambda a, b, c: b % a == 0,
    ),
    Problem(
        4,
        1,
        "一个三角形中，一个角是{a}度，另一个角是{b}度，第三个角是多少度？",
        {"a": (35, 80), "b": (30, 75)},
        lambda a, b: 180 - a - b,
        lambda a, b: (
            f"三个角的和是180度。先减第一个角：180 - {a} = {180 - a}，再减第二个角：{180 - a} - {b} = {180 - a - b}。"
        ),
    ),
    Problem(
        4,
        1,
        "一根彩带长{a}.5米，剪去{b}.2米，还剩多少米？",
        {"a": (6, 15), "b": (1, 5)},
        lambda a, b: f"{a - b}.3",
        lambda a, b: f"剩下的长度：{a}.5 - {b}.2 = {a - b}.3。",
    ),
    Problem(
        4,
        2,
        "在一条{a}米长的小路一侧，每隔{b}米种一棵树，两端都种，一共要种多少棵？",
        {"a": (60, 200), "b": (4, 10)},
        lambda a, b: a // b + 1,
        lambda a, b: f"先算间隔数：{a} ÷ {b} = {a // b}，两端都种，再加1：{a // b} + 1 = {a // b + 1}。",
        lambda a, b: a % b == 0,
    ),
    # 五年级
    Problem(
        5,
        2,
        "一个三角形的底是{a}分米，高是{b}分米，面积是多少平方分米？",
        {"a": (6, 24), "b": (4, 15)},
        lambda a, b: a * b // 2,
        lambda a, b: f"先算底乘高：{a} × {b} = {a * b}，再除以2：{a * b} ÷ 2 = {a * b // 2}。",
        lambda a, b: a * b % 2 == 0,
    ),
    Problem(
        5,
        3,
        "一个梯形上底{a}厘米，下底{b}厘米，高{c}厘米，面积是多少平方厘米？",
        {"a": (4, 12), "b": (13, 24), "c": (4, 16)},
        lambda a, b, c: (a + b) * c // 2,
        lambda a, b, c: (
            f"先算两底的和：{a} + {b} = {a + b}，再乘高：{a + b} × {c} = {(a + b) * c}，"
            f"最后除以2：{(a + b) * c} ÷ 2 = {(a + b) * c // 2}。"
        ),
        lambda a, b, c: (a + b) * c % 2 == 0,
    ),
    Problem(
        5,
        1,
        "一个长方体水箱长{a}分米、宽{b}分米、高{c}分米，它的容积是多少升？",
        {"a": (6, 12), "b": (4, 9), "c": (3, 8)},
        lambda a, b, c: a * b * c,
        lambda a, b, c: f"1立方分米是1升。先算底面积：{a} × {b} = {a * b}，再乘高：{a * b} × {c} = {a * b * c}。",
    ),
    Problem(
        5,
        2,
        "小红五次跳绳共跳{a}下，去掉最好的{b}下，其余四次平均每次跳多少下？",
        {"a": (520, 720), "b": (130, 170)},
        lambda a, b: (a - b) // 4,
        lambda a, b: f"先算其余四次共跳：{a} - {b} = {a - b}，再求平均数：{a - b} ÷ 4 = {(a - b) // 4}。",
        lambda a, b: (a - b) % 4 == 0 and (a - b) // 4 < b,
    ),
    Problem(
        5,
        2,
        "鸡和兔关在一个笼子里，共有{a}个头、{b}条腿，兔有多少只？",
        {"a": (10, 30), "b": (26, 100)},
        lambda a, b: b // 2 - a,
        lambda a, b: f"先算腿数的一半：{b} ÷ 2 = {b // 2}，再减去头数，就是兔的只数：{b // 2} - {a} = {b // 2 - a}。",
        lambda a, b: b % 2 == 0 and 0 < b // 2 - a < a,
    ),
    # 六年级
    Problem(
        6,
        1,
        "一件外套原价{a}元，打{b}折出售，现价多少元？",
        {"a": (80, 400), "b": (6, 9)},
        lambda a, b: a * b // 10,
        lambda a, b: f"先算原价的十分之一：{a} ÷ 10 = {a // 10}，再算{b}折：{a // 10} × {b} = {a // 10 * b}。",
        lambda a, b: a % 10 == 0,
    ),
    Problem(
        6,
        1,
        "果园里有桃树{a}棵，梨树的棵数是桃树的{b}%，梨树有多少棵？",
        {"a": (120, 400), "b": (20, 80)},
        lambda a, b: a * b // 100,
        lambda a, b: f"先乘{b}：{a} × {b} = {a * b}，再除以100：{a * b} ÷ 100 = {a * b // 100}。",
        lambda a, b: a * b % 100 == 0,
    ),
    Problem(
        6,
        2,
        "一本书共{a}页，玲玲第一天看了全书的1/{b}，还剩多少页没看？",
        {"a": (80, 240), "b": (4, 8)},
        lambda a, b: a - a // b,
        lambda a, b: f"先算看了的页数：{a} ÷ {b} = {a // b}，再算剩下的：{a} - {a // b} = {a - a // b}。",
        lambda a, b: a % b == 0,
    ),
    Problem(
        6,
        2,
        "在比例尺是1:{a}0000的地图上，量得两地相距{b}厘米，两地实际相距多少米？",
        {"a": (2, 9), "b": (3, 15)},
        lambda a, b: a * b * 100,
        lambda a, b: f"先算图上1厘米是多少米：{a}0000 ÷ 100 = {a}00，再算{b}厘米：{a}00 × {b} = {a * 100 * b}。",
    ),
    Problem(
        6,
        1,
        "把{a}吨货物平均分给{b}辆车运，每辆车运多少吨？（用分数表示）",
        {"a": (2, 7), "b": (8, 13)},
        lambda a, b: (a, b),
        lambda a, b: f"平均分，用除法：{a} ÷ {b} = {a}/{b}。",
    ),
]
