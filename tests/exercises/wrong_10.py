"""Wrong answers to exercise 10: each is the solution with one of its lines as people write it."""

from mutants import WORDING

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "split": [
        ("all rows in each process", "padded[rank::world]", "padded"),
        ("processes with fewer rows", "padded = rows + again", "padded = rows"),
        (
            "blocks in place of turns",
            "padded[rank::world]",
            "padded[rank * len(padded) // world :][: len(padded) // world]",
        ),
        ("the rest is dropped", "padded = rows + again", "padded = rows[: len(rows) // world * world]"),
        ("the last row again", "rows[place % len(rows)]", "rows[-1]"),
        ("too few rows for the padding", "rows[place % len(rows)]", "rows[place]"),
        ("every rank begins at 0", "padded[rank::world]", "padded[::world]"),
        ("the given list grows", "padded = rows + again", "rows += again\n    padded = rows"),
    ],
    "average": [
        ("the sum", " / len(gradients)", ""),
        ("only one process has it", "[list(mean) for _ in gradients]", "[list(mean)] + gradients[1:]"),
        ("the same list for all", "[list(mean) for _ in gradients]", "[mean] * len(gradients)"),
        ("over the weights, not the processes", "zip(*gradients)", "gradients"),
        ("one list", "[list(mean) for _ in gradients]", "mean"),
        ("divided by the weights", " / len(gradients)", " / len(gradients[0])"),
    ],
    "same_step": [
        ("the smallest batch_size", "max(size for", "min(size for"),
        ("settings unchanged", "    return size, rows // size", "    return batch_size, grad_accum"),
        ("rounded down in silence", "    if rest:\n", "    if False:\n"),
        (
            "batch_size is kept at any price",
            "return size, rows // size",
            "return batch_size, max(1, rows // batch_size)",
        ),
        ("batch_size may grow", "range(1, batch_size + 1)", "range(1, rows + 1)"),
        ("multiplied", "divmod(batch_size * grad_accum, processes)", "divmod(batch_size * grad_accum * processes, 1)"),
        ("the pair is turned round", "return size, rows // size", "return rows // size, size"),
    ],
    "own_loss": [
        ("the mean of its own tokens", "len(losses) * sum(own) / tokens", "sum(own) / max(1, len(own))"),
        ("DDP's division is forgotten", "len(losses) * sum(own) / tokens", "sum(own) / tokens"),
        ("the sum", "len(losses) * sum(own) / tokens", "sum(own)"),
        ("the mean of all in each process", "sum(own) / tokens", "sum(map(sum, losses)) / len(losses) / tokens"),
        ("no tokens at all", "max(1, sum(map(len, losses)))", "sum(map(len, losses))"),
        ("rows are counted", "sum(map(len, losses))", "len(losses)"),
    ],
    "lowest_stage": [
        ("weights are cut first", '("states", "gradients", "weights")', '("weights", "gradients", "states")'),
        ("activations are cut, too", "if kind in cut[:stage] else", "if stage and kind else"),
        ("stage 1 cuts gradients, too", "cut[:stage]", "cut[: stage + 1 if stage else 0]"),
        ("the highest stage", "(0, 1, 2, 3)", "(3, 2, 1, 0)"),
        ("exactly full does not fit", "need <= room", "need < room"),
        ("the last one where none fits", "return None", "return 3"),
        ("what is cut is gone", "size / gpus if", "0 if"),
        ("gradients must be there", "memory.items()", '{"gradients": memory["gradients"], **memory}.items()'),
    ],
    "ring": [
        ("only half of the way", "2 * (world - 1)", "world - 1"),
        ("one turn too many", "2 * (world - 1)", "2 * world - 1"),
        ("added in the second half, too", "if turn < world - 1 else 0", ""),
        ("never added", "held[rank][place] if turn < world - 1 else 0", "0"),
        ("nobody is asked", "got = exchange(", "got = (lambda values: values[-1:] + values[:-1])("),
        ("always the same chunk", "(rank - turn) % world", "rank % world"),
        ("its own place", "(rank - 1 - turn) % world", "(rank - turn) % world"),
        ("the given parts are changed", "[list(part) for part in parts]", "parts"),
    ],
}

SURVIVORS = {  # task: mutant: why no check can or should notice it
    "same_step": {
        "6:25 'the rows of a step cannot be shared evenly' → 'the rows of a step cannot be shared evenlyX'": WORDING
    },
    "lowest_stage": {"9:4 return None → pass": "a function that ends without a return gives None, too"},
}
