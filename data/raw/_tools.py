"""Tool schemas and conversations behind `tools.jsonl`: question, calls with results, final answer.

The first conversations are written out; the patterns after them are filled in by `generate.py`.
"""

from typing import Any, NamedTuple


def tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """One function in OpenAI's schema."""
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT = {"type": "string"}
NUMBER = {"type": "number"}
TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": tool(
        "get_weather",
        "Get the weather by city and day.",
        {"city": TEXT, "day": {"type": "string", "enum": ["today", "tomorrow", "yesterday"]}},
        ["city", "day"],
    ),
    "convert_currency": tool(
        "convert_currency",
        "Convert an amount from one currency to another, both as ISO codes.",
        {"amount": NUMBER, "source": TEXT, "target": TEXT},
        ["amount", "source", "target"],
    ),
    "set_reminder": tool(
        "set_reminder", "Set a reminder at a time of day.", {"text": TEXT, "time": TEXT}, ["text", "time"]
    ),
    "find_books": tool(
        "find_books",
        "Search the library's catalogue.",
        {"topic": TEXT, "limit": {"type": "integer", "minimum": 1}},
        ["topic"],
    ),
    "get_route": tool(
        "get_route",
        "Find a way between two places.",
        {"start": TEXT, "end": TEXT, "mode": {"type": "string", "enum": ["walk", "bus", "train"]}},
        ["start", "end", "mode"],
    ),
    "track_parcel": tool("track_parcel", "Say where a parcel is.", {"number": TEXT}, ["number"]),
}

Call = tuple[str, dict[str, Any], dict[str, Any]]  # tool, arguments, result
Talk = tuple[str, str, list[Call], str]  # language, question, calls made in one turn, final answer

TALKS: list[Talk] = [
    ("zh", "明天 Edmonton 天气怎么样？",
     [("get_weather", {"city": "Edmonton", "day": "tomorrow"}, {"temp_c": 12, "condition": "Cloudy"})],
     "Edmonton 明天多云，约 12°C。"),
    ("en", "Do I need an umbrella in Dublin today?",
     [("get_weather", {"city": "Dublin", "day": "today"}, {"temp_c": 9, "condition": "Rain"})],
     "Yes, take one: it is raining in Dublin today, at about 9 °C."),
    ("en", "Was it warm in Cairo yesterday?",
     [("get_weather", {"city": "Cairo", "day": "yesterday"}, {"temp_c": 34, "condition": "Sunny"})],
     "It was: Cairo had sun and 34 °C yesterday."),
    ("zh", "今天成都和重庆哪个更热？",
     [("get_weather", {"city": "成都", "day": "today"}, {"temp_c": 27, "condition": "多云"}),
      ("get_weather", {"city": "重庆", "day": "today"}, {"temp_c": 33, "condition": "晴"})],
     "重庆更热：今天重庆晴，33°C；成都多云，27°C。"),
    ("en", "Which is colder tomorrow, Oslo or Bergen?",
     [("get_weather", {"city": "Oslo", "day": "tomorrow"}, {"temp_c": -4, "condition": "Snow"}),
      ("get_weather", {"city": "Bergen", "day": "tomorrow"}, {"temp_c": 3, "condition": "Rain"})],
     "Oslo: snow and -4 °C there tomorrow, against rain and 3 °C in Bergen."),
    ("zh", "昨天哈尔滨下雪了吗？",
     [("get_weather", {"city": "哈尔滨", "day": "yesterday"}, {"temp_c": -15, "condition": "小雪"})],
     "下了，昨天哈尔滨小雪，气温零下 15°C。"),
    ("en", "How much is 50 US dollars in euros?",
     [("convert_currency", {"amount": 50, "source": "USD", "target": "EUR"}, {"amount": 46.1})],
     "50 US dollars are about 46.10 euros."),
    ("zh", "300元人民币能换多少日元？",
     [("convert_currency", {"amount": 300, "source": "CNY", "target": "JPY"}, {"amount": 6210})],
     "300 元人民币大约可以换 6210 日元。"),
    ("en", "The bill is 1200 yen. What is that in pounds?",
     [("convert_currency", {"amount": 1200, "source": "JPY", "target": "GBP"}, {"amount": 6.3})],
     "That is about 6.30 pounds."),
    ("zh", "酒店一晚85欧元，折合人民币多少？",
     [("convert_currency", {"amount": 85, "source": "EUR", "target": "CNY"}, {"amount": 668.1})],
     "85 欧元约合 668.1 元人民币。"),
    ("en", "Change 20 dollars for me, once into pesos and once into francs.",
     [("convert_currency", {"amount": 20, "source": "USD", "target": "MXN"}, {"amount": 368}),
      ("convert_currency", {"amount": 20, "source": "USD", "target": "CHF"}, {"amount": 17.6})],
     "20 dollars are about 368 Mexican pesos or 17.60 Swiss francs."),
    ("en", "Remind me to call Mum at six in the evening.",
     [("set_reminder", {"text": "Call Mum", "time": "18:00"}, {"ok": True})],
     "Done, I will remind you at 18:00 to call your mum."),
    ("zh", "早上七点半提醒我吃药。",
     [("set_reminder", {"text": "吃药", "time": "07:30"}, {"ok": True})], "好的，07:30 我会提醒你吃药。"),
    ("en", "Put a reminder at 21:15 for taking the bins out.",
     [("set_reminder", {"text": "Take the bins out", "time": "21:15"}, {"ok": True})],
     "The reminder is set: bins out at 21:15."),
    ("zh", "提醒我中午十二点取快递，下午三点开会。",
     [("set_reminder", {"text": "取快递", "time": "12:00"}, {"ok": True}),
      ("set_reminder", {"text": "开会", "time": "15:00"}, {"ok": True})],
     "都设好了：12:00 取快递，15:00 开会。"),
    ("en", "Wake me at a quarter to five.",
     [("set_reminder", {"text": "Wake up", "time": "04:45"}, {"ok": False, "error": "quiet hours until 05:00"})],
     "I could not set it: your quiet hours last until 05:00. Shall I take 05:00 instead?"),
    ("en", "Does the library have anything about volcanoes?",
     [("find_books", {"topic": "volcanoes"}, {"books": ["Rivers of Fire", "Inside Etna"]})],
     "Yes, two books: Rivers of Fire and Inside Etna."),
    ("zh", "帮我找一本讲围棋入门的书。",
     [("find_books", {"topic": "围棋入门", "limit": 1}, {"books": ["围棋第一课"]})], "找到一本：《围棋第一课》。"),
    ("en", "I'd like three books on baking bread.",
     [("find_books", {"topic": "baking bread", "limit": 3}, {"books": ["Crust", "The Slow Loaf", "Rye and Salt"]})],
     "Here are three: Crust, The Slow Loaf, and Rye and Salt."),
    ("zh", "图书馆里有关于鲸鱼的书吗？",
     [("find_books", {"topic": "鲸鱼"}, {"books": []})],
     "目前没有查到关于鲸鱼的书，要不要换个主题试试，比如“海洋动物”？"),
    ("en", "Anything in the catalogue on medieval maps?",
     [("find_books", {"topic": "medieval maps"}, {"books": ["The Edge of the World"]})],
     "There is one: The Edge of the World."),
    ("en", "How do I get from the station to the harbour on foot?",
     [("get_route", {"start": "station", "end": "harbour", "mode": "walk"}, {"minutes": 18, "via": "Canal Street"})],
     "Walk along Canal Street; it takes about 18 minutes."),
    ("zh", "从人民广场坐公交到植物园要多久？",
     [("get_route", {"start": "人民广场", "end": "植物园", "mode": "bus"}, {"minutes": 42, "line": "56路"})],
     "坐 56 路公交，大约 42 分钟。"),
    ("en", "Train or bus from Leeds to York, which is faster?",
     [("get_route", {"start": "Leeds", "end": "York", "mode": "train"}, {"minutes": 24}),
      ("get_route", {"start": "Leeds", "end": "York", "mode": "bus"}, {"minutes": 65})],
     "The train: 24 minutes, against 65 by bus."),
    ("zh", "走路去最近的邮局怎么走？我在科技园南门。",
     [("get_route", {"start": "科技园南门", "end": "邮局", "mode": "walk"}, {"minutes": 7, "via": "桂花路"})],
     "沿桂花路走，大约 7 分钟就到。"),
    ("en", "Is there a train from Porto to Faro?",
     [("get_route", {"start": "Porto", "end": "Faro", "mode": "train"}, {"minutes": 345, "changes": 1})],
     "Yes, with one change; it takes about 5 hours and 45 minutes."),
    ("en", "Where is my parcel RX88?",
     [("track_parcel", {"number": "RX88"}, {"status": "in transit", "city": "Lyon"})],
     "Parcel RX88 is on its way, at the moment in Lyon."),
    ("zh", "查一下单号SF2046到哪儿了。",
     [("track_parcel", {"number": "SF2046"}, {"status": "派送中", "city": "苏州"})],
     "单号 SF2046 已到苏州，正在派送。"),
    ("en", "Has order 5-511 arrived yet?",
     [("track_parcel", {"number": "5-511"}, {"status": "delivered", "day": "Tuesday"})],
     "Yes, 5-511 was delivered on Tuesday."),
    ("zh", "我的包裹YT09怎么还没动静？",
     [("track_parcel", {"number": "YT09"}, {"error": "not found"})], "没有查到单号 YT09，请核对一下号码再发给我。"),
]  # fmt: skip


# The patterns below may call these too. The conversations above are offered TOOLS only, so that they stay as they are.
MORE_TOOLS: dict[str, dict[str, Any]] = {
    "set_timer": tool("set_timer", "Start a countdown.", {"minutes": {"type": "integer", "minimum": 1}}, ["minutes"]),
    "book_table": tool(
        "book_table",
        "Book a table in a restaurant; the time as HH:MM.",
        {"restaurant": TEXT, "people": {"type": "integer", "minimum": 1}, "time": TEXT},
        ["restaurant", "people", "time"],
    ),
}


class Pattern(NamedTuple):
    """A conversation with gaps. `{city}` and `{city2}` are two different fillers of the list `city`.

    In a question or an answer a gap holds the filler as people write it, in arguments and results its value.
    """

    language: str
    question: str
    calls: list[Call]
    answer: str


# A filler is a value, or a pair: how it is written in the text and its value. Behind a topic stand its books.
# Two gaps are worked out: {books} from the topic, {sum} from the amount and the currencies.
FILLERS: dict[str, dict[str, Any]] = {
    "en": {
        "city": ["Toronto", "Lisbon", "Helsinki", "Nairobi", "Sydney", "Vienna", "Mumbai", "Boston", "Lima", "Prague",
                 "Seoul", "Denver"],
        "town": ["Bristol", "Bath", "Oxford", "Reading", "Exeter", "Swindon", "Taunton"],
        "day": ["today", "tomorrow", "yesterday"],
        "sky": ["cloudy", "sunny", "rainy", "windy", "foggy"],
        "money": [("US dollars", "USD"), ("euros", "EUR"), ("British pounds", "GBP"), ("Japanese yen", "JPY"),
                  ("Swiss francs", "CHF"), ("Canadian dollars", "CAD"), ("Chinese yuan", "CNY")],
        "limit": [("two", 2), ("three", 3)],
        "topic": {
            "beekeeping": ["The Quiet Hive", "A Year with Bees", "Honey Days"],
            "glaciers": ["Blue Ice", "The Slow River", "After the Ice"],
            "chess openings": ["First Moves", "The Open Board", "White to Play"],
            "wild mushrooms": ["Under the Oak", "Caps and Gills", "The Forest Basket"],
            "Roman history": ["Seven Hills", "The Long Road to Rome", "Bread and Games"],
            "lighthouses": ["Keepers of the Light", "The Last Lamp", "Rock and Beam"],
            "astronomy": ["Night Sky Notes", "The Near Stars", "Dust and Light"],
            "knitting": ["Two Needles", "The Warm Sweater", "Loops"],
        },
        "place": ["Central Station", "City Hall", "Terminal 2", "Market Square", "Hill Park", "Harbour Street",
                  "Rose Street", "Queen's Hospital"],
        "mode": [("on foot", "walk"), ("by bus", "bus")],
        "line": ["12", "7", "34", "88", "105", "21"],
        "parcel": ["KD4471", "PX302", "ZW9915", "TR6208", "MB1170", "LQ853"],
        "status": ["in transit", "at the depot", "out for delivery"],
        "restaurant": ["Blue Lantern", "The Olive Tree", "The Copper Pot", "Casa Luna", "Green Fork", "Harbour Grill"],
        "note": ["water the plants", "call the dentist", "pay the rent", "feed the cat", "send the report",
                 "charge the phone"],
    },
    "zh": {
        "city": ["杭州", "西安", "昆明", "厦门", "青岛", "武汉", "长沙", "南宁", "沈阳", "兰州", "拉萨", "郑州"],
        "town": ["南京", "苏州", "无锡", "常州", "镇江", "扬州", "上海"],
        "day": [("今天", "today"), ("明天", "tomorrow"), ("昨天", "yesterday")],
        "sky": ["多云", "晴", "小雨", "大风", "有雾"],
        "money": [("美元", "USD"), ("欧元", "EUR"), ("英镑", "GBP"), ("日元", "JPY"), ("瑞士法郎", "CHF"),
                  ("加元", "CAD"), ("人民币", "CNY")],
        "limit": [("两", 2), ("三", 3)],
        "topic": {
            "茶文化": ["一杯清茶", "茶路漫谈", "壶中日月"],
            "恐龙": ["恐龙的一天", "远古巨兽", "化石猎人"],
            "书法": ["横平竖直", "笔墨之间", "临帖入门"],
            "摄影": ["光与影", "镜头之外", "街头拍摄手记"],
            "唐代历史": ["长安旧事", "大唐风物", "从贞观到开元"],
            "养鱼": ["一缸清水", "鱼缸里的学问", "水草与鱼"],
            "天文": ["夜空笔记", "星星离我们多远", "月球漫步"],
            "木工": ["榫卯之美", "第一把椅子", "刨花集"],
        },
        "place": ["火车站", "市图书馆", "机场", "和平公园", "中心医院", "大学城", "博物馆", "滨江广场"],
        "line": ["12路", "7路", "34路", "88路", "105路"],
        "parcel": ["SF3391", "JD7720", "ZT0458", "YD6613", "EMS219", "DB8046"],
        "status": ["运输中", "已到站点", "派送中"],
        "restaurant": ["老街小馆", "江南春", "聚福楼", "海边餐厅", "竹里馆", "小城故事"],
        "note": ["浇花", "交水电费", "给牙医打电话", "喂猫", "发周报", "给手机充电"],
    },
}  # fmt: skip

# Fillers of both languages.
COMMON: dict[str, Any] = {
    "temp": range(6, 30),
    "amount": range(20, 500, 5),
    "code": ["USD", "EUR", "GBP", "JPY", "CHF", "CAD", "CNY"],
    "short": range(20, 60),  # minutes, as in long
    "long": range(70, 150),
    "people": range(2, 9),
    "time": ["11:45", "12:30", "17:15", "18:00", "18:45", "19:30", "20:10"],
    "booking": ["K7", "B12", "M40", "R3", "T55"],
}
RATES = {"USD": 100, "EUR": 108, "GBP": 127, "JPY": 0.68, "CHF": 113, "CAD": 73, "CNY": 14}  # in US cents

DONE = {"ok": True}
SEEN: dict[str, Any] = {"temp_c": "{temp}", "condition": "{sky}"}
NAMED = {"amount": "{amount}", "source": "{money}", "target": "{money2}"}
CODED = {"amount": "{amount}", "source": "{code}", "target": "{code2}"}
BY_TRAIN = {"start": "{town}", "end": "{town2}", "mode": "train"}
BY_BUS = {"start": "{place}", "end": "{place2}", "mode": "bus"}
TABLE = {"restaurant": "{restaurant}", "people": "{people}", "time": "{time}"}

SINGLE: list[Pattern] = [
    Pattern("en", "Look up the weather in {city} for {day}.",
            [("get_weather", {"city": "{city}", "day": "{day}"}, SEEN)], "{city}, {day}: {sky}, {temp} °C."),
    Pattern("en", "How warm will it be in {city} tomorrow?",
            [("get_weather", {"city": "{city}", "day": "tomorrow"}, SEEN)],
            "It will be about {temp} °C in {city} tomorrow."),
    Pattern("en", "How much is {amount} {money} in {money2}?", [("convert_currency", NAMED, {"amount": "{sum}"})],
            "{amount} {money} are about {sum} {money2}."),
    Pattern("en", "Convert {amount} {code} to {code2}.", [("convert_currency", CODED, {"amount": "{sum}"})],
            "{amount} {code} is about {sum} {code2}."),
    Pattern("en", "Find me {limit} books about {topic}.",
            [("find_books", {"topic": "{topic}", "limit": "{limit}"}, {"books": "{books}"})],
            "Here are {limit} books about {topic}: {books}."),
    Pattern("en", "Does the library have any books on {topic}?",
            [("find_books", {"topic": "{topic}"}, {"books": "{books}"})], "Yes, it has {books}."),
    Pattern("en", "Which bus goes from {place} to {place2}?",
            [("get_route", BY_BUS, {"minutes": "{short}", "line": "{line}"})],
            "Take bus {line}; the ride takes about {short} minutes."),
    Pattern("en", "How long does it take to get from {place} to {place2} {mode}?",
            [("get_route", {"start": "{place}", "end": "{place2}", "mode": "{mode}"}, {"minutes": "{short}"})],
            "It takes about {short} minutes {mode}."),
    Pattern("en", "Where is parcel {parcel} now?",
            [("track_parcel", {"number": "{parcel}"}, {"status": "{status}", "city": "{city}"})],
            "Parcel {parcel} is {status} in {city}."),
    Pattern("en", "Set a timer for {short} minutes.", [("set_timer", {"minutes": "{short}"}, DONE)],
            "The timer is running: {short} minutes."),
    Pattern("en", "Book a table at {restaurant} for {people} people at {time}.",
            [("book_table", TABLE, DONE | {"booking": "{booking}"})],
            "Your table for {people} at {restaurant} is booked for {time}; the booking number is {booking}."),
    Pattern("en", "Set a reminder for {time} with the text \"{note}\".",
            [("set_reminder", {"text": "{note}", "time": "{time}"}, DONE)],
            "The reminder \"{note}\" is set for {time}."),
    Pattern("zh", "{city}{day}天气怎么样？",
            [("get_weather", {"city": "{city}", "day": "{day}"}, SEEN)], "{city}{day}{sky}，{temp}°C。"),
    Pattern("zh", "请问明天{city}大概多少度？",
            [("get_weather", {"city": "{city}", "day": "tomorrow"}, SEEN)], "明天{city}大约{temp}°C。"),
    Pattern("zh", "{amount}{money}能换多少{money2}？", [("convert_currency", NAMED, {"amount": "{sum}"})],
            "{amount}{money}大约能换{sum}{money2}。"),
    Pattern("zh", "请把{amount} {code}换算成{code2}。", [("convert_currency", CODED, {"amount": "{sum}"})],
            "{amount} {code}约等于{sum} {code2}。"),
    Pattern("zh", "帮我找{limit}本关于{topic}的书。",
            [("find_books", {"topic": "{topic}", "limit": "{limit}"}, {"books": "{books}"})],
            "找到{limit}本关于{topic}的书：{books}。"),
    Pattern("zh", "图书馆有没有讲{topic}的书？",
            [("find_books", {"topic": "{topic}"}, {"books": "{books}"})], "有，馆里有{books}。"),
    Pattern("zh", "从{place}到{place2}坐哪路公交？",
            [("get_route", BY_BUS, {"minutes": "{short}", "line": "{line}"})], "坐{line}，大约{short}分钟。"),
    Pattern("zh", "从{town}坐火车到{town2}要多长时间？",
            [("get_route", BY_TRAIN, {"minutes": "{short}"})],
            "坐火车大约要{short}分钟。"),
    Pattern("zh", "快递{parcel}现在到哪里了？",
            [("track_parcel", {"number": "{parcel}"}, {"status": "{status}", "city": "{city}"})],
            "快递{parcel}现在在{city}，状态是{status}。"),
    Pattern("zh", "请设一个{short}分钟的倒计时。", [("set_timer", {"minutes": "{short}"}, DONE)],
            "好的，{short}分钟倒计时已经开始。"),
    Pattern("zh", "帮我在{restaurant}订{time}的位子，一共{people}个人。",
            [("book_table", TABLE, DONE | {"booking": "{booking}"})],
            "已在{restaurant}订好{time}的位子，{people}个人，预订号是{booking}。"),
    Pattern("zh", "请在{time}提醒我：“{note}”。",
            [("set_reminder", {"text": "{note}", "time": "{time}"}, DONE)], "好的，{time}我会提醒你：“{note}”。"),
]  # fmt: skip

# Two calls at once.
PARALLEL: list[Pattern] = [
    Pattern("en", "Compare the weather in {city} and {city2} for {day}.",
            [("get_weather", {"city": "{city}", "day": "{day}"}, SEEN),
             ("get_weather", {"city": "{city2}", "day": "{day}"}, {"temp_c": "{temp2}", "condition": "{sky2}"})],
            "Weather {day}: {city} {sky}, {temp} °C; {city2} {sky2}, {temp2} °C."),
    Pattern("en", "Compare the train and the bus from {town} to {town2}.",
            [("get_route", BY_TRAIN, {"minutes": "{short}"}),
             ("get_route", BY_TRAIN | {"mode": "bus"}, {"minutes": "{long}"})],
            "The train is faster: {short} minutes, against {long} minutes by bus."),
    Pattern("zh", "{day}{city}和{city2}的天气分别怎么样？",
            [("get_weather", {"city": "{city}", "day": "{day}"}, SEEN),
             ("get_weather", {"city": "{city2}", "day": "{day}"}, {"temp_c": "{temp2}", "condition": "{sky2}"})],
            "{day}{city}{sky}，{temp}°C；{city2}{sky2}，{temp2}°C。"),
    Pattern("zh", "帮我查一下{parcel}和{parcel2}这两个快递。",
            [("track_parcel", {"number": "{parcel}"}, {"status": "{status}", "city": "{city}"}),
             ("track_parcel", {"number": "{parcel2}"}, {"status": "{status2}", "city": "{city2}"})],
            "{parcel}在{city}，{status}；{parcel2}在{city2}，{status2}。"),
]  # fmt: skip
