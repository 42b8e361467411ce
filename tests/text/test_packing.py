"""course_utils.text.packing: no row is lost or cut, and packed rows do not see each other; text is cut to length."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import masking, packing
from course_utils.text.masking import IGNORED
from course_utils.text.packing import PackingError

MAX = 16


def rows_of(lengths):
    """Rows whose tokens say which row and place they come from; of every other row only the second half is learned."""
    rows = []
    for number, length in enumerate(lengths):
        ids = [100 * number + place for place in range(length)]
        labels = [IGNORED if number % 2 and place < length / 2 else token for place, token in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


@given(texts=st.lists(st.text("ab <|im_end>镇\n", max_size=40), min_size=1, max_size=6), length=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_text_is_cut_to_length_and_nothing_is_lost(texts, length, smol_tokenizer):
    texts = [*texts, "ends with <|im_end|>"]
    rows = Dataset.from_list([{"id": str(number), "text": text} for number, text in enumerate(texts)])
    pieces = packing.chunks(rows, smol_tokenizer, length).to_list()
    assert {len(piece["input_ids"]) for piece in pieces[:-1]} <= {length} and len(pieces[-1]["input_ids"]) <= length
    assert all(piece["labels"] == piece["input_ids"] for piece in pieces)
    ids = [token for piece in pieces for token in piece["input_ids"]]
    assert smol_tokenizer.decode(ids) == "".join(text + packing.END_OF_TEXT for text in texts)
    assert smol_tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids, "a text cannot end a reply"
    assert list(packing.chunks(rows.to_iterable_dataset(), smol_tokenizer, length)) == pieces, "read as it comes"


def unpack(packs):
    """The rows of packs, by their position ids."""
    rows = []
    for one in packs:
        starts = [place for place, position in enumerate(one["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(one["position_ids"])], strict=True):
            rows.append({key: one[key][start:end] for key in ("input_ids", "labels", "position_ids")})
    return rows


@given(lengths=st.lists(st.integers(1, MAX), max_size=12))
def test_every_row_is_in_one_pack_whole(lengths):
    rows = rows_of(lengths)
    packs = packing.pack(rows, MAX)
    assert all(len(one["input_ids"]) == len(one["labels"]) == len(one["position_ids"]) <= MAX for one in packs)
    found = sorted(unpack(packs), key=lambda row: row["input_ids"])
    assert [row["input_ids"] for row in found] == [row["input_ids"] for row in rows]
    assert [row["labels"] for row in found] == [[IGNORED, *row["labels"][1:]] for row in rows]
    assert all(row["position_ids"] == list(range(len(row["input_ids"]))) for row in found)


def test_rows_that_do_not_fit_are_refused_and_not_cut():
    with pytest.raises(PackingError, match=r"2 rows are longer than 16 tokens \(first: row 1\)"):
        packing.pack(rows_of([3, 17, 16, 20]), MAX)
    with pytest.raises(PackingError, match=r"1 rows are empty \(first: row 1\)"):
        packing.pack(rows_of([3, 0]), MAX)


def test_more_than_a_thousand_rows_are_packed_together():
    packs = packing.pack(rows_of([9] * 1001 + [7] * 1001), MAX)
    assert len(packs) == 1001 and all(len(one["input_ids"]) == MAX for one in packs)


def test_padding_is_what_batches_are_filled_up_with():
    assert packing.padding_share([2, 4, 4, 4], batch_size=2) == pytest.approx(2 / 16)
    assert packing.padding_share([5, 5], batch_size=2) == packing.padding_share([], batch_size=2) == 0


def test_packed_loss_is_the_loss_of_the_rows_apart(smol):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smol)
    model = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32).eval()
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in [("Name a colour.", "Red is one."), ("2 + 2?", "4"), ("Say hello.", "Hello there!")]
    ]
    examples = list(masking.build_dataset(rows, tokenizer))
    (one,) = packing.pack(examples, 512)

    def nll(ids, labels, positions=None):
        inputs = {"input_ids": torch.tensor([ids])}
        if positions is not None:
            inputs["position_ids"] = torch.tensor([positions])
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False).logits[0, :-1]
        targets = torch.tensor(labels[1:])
        return float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))

    apart = sum(nll(row["input_ids"], row["labels"]) for row in examples)
    packed = nll(one["input_ids"], one["labels"], one["position_ids"])
    naive = nll(one["input_ids"], one["labels"])
    assert packed == pytest.approx(apart, rel=1e-4)
    assert abs(naive - apart) > 0.01 * apart
