"""English word problems in MAWPS's shape: (question with N_00, N_01 ..., equation).

Each story has its own people, things and wording, so that two rows of one story differ in numbers only and a split by
the number-masked question keeps them together. `generate.py` draws the numbers and works out the answers.
"""

STORIES: list[tuple[str, str]] = [
    # one step: adding
    ("Nora picked up N_00 shells in the morning and N_01 after lunch. How many shells did she pick up?", "N_00 + N_01"),
    ("There are N_00 ducks on the pond. N_01 more ducks land. How many ducks are on the pond now?", "N_00 + N_01"),
    ("A baker sold N_00 rolls and N_01 buns today. How many pieces did the baker sell?", "N_00 + N_01"),
    ("Omar is N_00 years old. How old will he be in N_01 years?", "N_00 + N_01"),
    ("The bus had N_00 people on board when N_01 got on at the market. How many people are on it?", "N_00 + N_01"),
    ("Lena spent N_00 dollars on a scarf and N_01 dollars on gloves. What did she spend?", "N_00 + N_01"),
    ("It snowed N_00 inches on Monday and N_01 inches on Tuesday. How much snow fell in both days?", "N_00 + N_01"),
    ("Felix read N_00 pages, then another N_01 before bed. How many pages did he read?", "N_00 + N_01"),
    ("A vase holds N_00 tulips and N_01 roses. How many flowers are in the vase?", "N_00 + N_01"),
    ("Grandpa planted N_00 pear trees next to his N_01 plum trees. How many fruit trees has he got?", "N_00 + N_01"),
    ("The red team scored N_00 goals and the blue team N_01. How many goals were scored in the match?", "N_00 + N_01"),
    (
        "A hiker walks N_00 miles to the hut, then N_01 miles to the lake. How long is the walk in miles?",
        "N_00 + N_01",
    ),
    # one step: taking away
    ("Ruth baked N_00 muffins and gave N_01 to her neighbour. How many muffins are left?", "N_00 - N_01"),
    ("Ivan had N_00 marbles but lost N_01 in the grass. How many marbles has he still got?", "N_00 - N_01"),
    ("A tank held N_00 litres of water. N_01 litres leaked out. How many litres remain?", "N_00 - N_01"),
    ("Of N_00 balloons at the party, N_01 popped. How many balloons did not pop?", "N_00 - N_01"),
    (
        "Sara is N_00 years old and her brother is N_01. How many years older is Sara?",
        "N_00 - N_01",
    ),
    ("A rope is N_00 feet long. Ben cuts off N_01 feet. How many feet of rope are left?", "N_00 - N_01"),
    ("The shop had N_00 umbrellas and sold N_01 in the rain. How many umbrellas are in the shop?", "N_00 - N_01"),
    ("Maya needs N_00 stamps to fill her album. She has N_01. How many more does she need?", "N_00 - N_01"),
    ("N_00 children are in the pool. N_01 climb out. How many children are still swimming?", "N_00 - N_01"),
    ("Leo paid with N_00 dollars for a book that costs N_01 dollars. How much change does he get?", "N_00 - N_01"),
    ("Our class has N_00 pupils and N_01 are ill today. How many pupils came to school?", "N_00 - N_01"),
    ("A candle was N_00 cm tall and is N_01 cm tall now. How many cm have burned away?", "N_00 - N_01"),
    # one step: multiplying
    ("One box holds N_00 crayons. How many crayons are in N_01 boxes?", "N_00 * N_01"),
    ("Tara runs N_00 miles a day. How far does she run in N_01 days?", "N_00 * N_01"),
    ("A ticket to the zoo costs N_00 dollars. What do N_01 tickets cost?", "N_00 * N_01"),
    ("There are N_00 rows of chairs with N_01 chairs in each row. How many chairs are there?", "N_00 * N_01"),
    ("Each spider plant has N_00 leaves. How many leaves do N_01 such plants have?", "N_00 * N_01"),
    ("Kofi drinks N_00 cups of tea every day. How many cups is that in N_01 days?", "N_00 * N_01"),
    ("A hen lays N_00 eggs a week. How many eggs does she lay in N_01 weeks?", "N_00 * N_01"),
    ("Every page of the album shows N_00 photos. How many photos fit on N_01 pages?", "N_00 * N_01"),
    ("A toy car needs N_00 screws. How many screws do N_01 toy cars need?", "N_00 * N_01"),
    ("Mina earns N_00 dollars an hour. How much does she earn in N_01 hours?", "N_00 * N_01"),
    ("A train has N_00 wagons with N_01 doors each. How many doors does it have?", "N_00 * N_01"),
    ("N_00 friends each bring N_01 sandwiches to the picnic. How many sandwiches do they bring?", "N_00 * N_01"),
    # one step: sharing
    ("Paul shares N_00 cherries fairly among N_01 children. How many cherries does each child get?", "N_00 / N_01"),
    ("A ribbon of N_00 inches is cut into N_01 equal pieces. How long is one piece in inches?", "N_00 / N_01"),
    ("N_00 pupils stand in N_01 equal lines. How many pupils are in a line?", "N_00 / N_01"),
    ("Eva puts N_00 cookies into bags of N_01. How many bags does she fill?", "N_00 / N_01"),
    ("A farmer packs N_00 melons into crates of N_01 melons. How many crates does he need?", "N_00 / N_01"),
    ("Hugo read a book of N_00 pages in N_01 days, the same number a day. How many pages a day?", "N_00 / N_01"),
    ("N_00 tyres are on the cars in the yard, N_01 on each car. How many cars are there?", "N_00 / N_01"),
    ("Together N_00 sisters saved N_01 dollars, each the same. How much did one sister save?", "N_01 / N_00"),
    ("It takes N_00 minutes to wash one window. How many windows are washed in N_01 minutes?", "N_01 / N_00"),
    ("A pack of N_00 batteries is used up by lamps that take N_01 each. How many lamps are lit?", "N_00 / N_01"),
    # two steps
    (
        "Anna had N_00 dollars. She earned N_01 dollars and spent N_02 dollars. How much has she now?",
        "N_00 + N_01 - N_02",
    ),
    (
        "N_00 birds sat on a wire. N_01 flew off, then N_02 came. How many birds sit there now?",
        "N_00 - N_01 + N_02",
    ),
    ("Sam caught N_00 crabs, Ida caught N_01 and Jo caught N_02. How many crabs is that?", "N_00 + N_01 + N_02"),
    (
        "A pizza has N_00 slices. Dad eats N_01 and Mum eats N_02. How many slices are left?",
        "N_00 - N_01 - N_02",
    ),
    (
        "Zoe buys N_00 pens at N_01 dollars each and a pad for N_02 dollars. What does she pay?",
        "N_00 * N_01 + N_02",
    ),
    (
        "A crate has N_00 layers of N_01 oranges. N_02 oranges are bad. How many are good?",
        "N_00 * N_01 - N_02",
    ),
    (
        "N_00 boys and N_01 girls form teams of N_02 children. How many teams are there?",
        "( N_00 + N_01 ) / N_02",
    ),
    (
        "Amir had N_00 nuts, ate N_01 and put the rest into N_02 equal jars. How many nuts per jar?",
        "( N_00 - N_01 ) / N_02",
    ),
    (
        "A florist ties N_00 lilies and N_01 daisies into each of N_02 bunches. How many flowers is that?",
        "( N_00 + N_01 ) * N_02",
    ),
    (
        "Of N_00 days in camp, N_01 were wet. On each dry day we swam N_02 laps. How many laps did we swim?",
        "( N_00 - N_01 ) * N_02",
    ),
    (
        "A van carries N_00 parcels. It drops N_01 in town and N_02 in the village. How many are still in the van?",
        "N_00 - N_01 - N_02",
    ),
    (
        "Clara knits N_00 rows an hour for N_01 hours, then undoes N_02 rows. How many rows remain?",
        "N_00 * N_01 - N_02",
    ),
    (
        "N_00 coins are split among N_01 pirates. Then each finds N_02 more. How many has each pirate?",
        "N_00 / N_01 + N_02",
    ),
    (
        "A ferry took N_00 cars at dawn, N_01 at noon and N_02 at dusk. How many cars did it take that day?",
        "N_00 + N_01 + N_02",
    ),
    (
        "Dora's jug holds N_00 cups. She pours N_01 cups, refills N_02 cups. How many cups are in the jug?",
        "N_00 - N_01 + N_02",
    ),
    (
        "Two shelves hold N_00 and N_01 jars. Aunt May gives N_02 jars away. How many jars are left on them?",
        "N_00 + N_01 - N_02",
    ),
    (
        "Tickets are N_00 dollars. A family buys N_01 and uses a voucher of N_02 dollars. How much is left to pay?",
        "N_00 * N_01 - N_02",
    ),
    (
        "A gardener sets N_00 beds of N_01 seedlings and has N_02 spare. How many seedlings did she start with?",
        "N_00 * N_01 + N_02",
    ),
    (
        "N_00 bottles of juice were bought and N_01 drunk. N_02 tables share the rest. How many bottles does each get?",
        "( N_00 - N_01 ) / N_02",
    ),
    (
        "Yuki folds N_00 paper cranes, Ken N_01. They hang them on N_02 strings evenly. How many per string?",
        "( N_00 + N_01 ) / N_02",
    ),
    # halves, as prices and lengths are
    ("A melon weighs N_00 pounds and a pineapple N_01 pounds. What do they weigh together?", "N_00 + N_01"),
    ("The blue string is N_00 m long, the white one N_01 m. How many m longer is the blue one?", "N_00 - N_01"),
    ("Coffee costs N_00 dollars a cup. How much are N_01 cups?", "N_00 * N_01"),
    ("Ella rode N_00 km, rested, and rode N_01 km more. How many km did she ride?", "N_00 + N_01"),
    ("From N_00 kg of flour the cook uses N_01 kg. How many kg of flour does the cook still have?", "N_00 - N_01"),
    ("A plank of N_00 feet is sawn into N_01 equal parts. How many feet is each part?", "N_00 / N_01"),
]
HALVES = 6  # the last stories may draw numbers such as 2.5
