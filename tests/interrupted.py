"""A short run that a test kills: `python tests/interrupted.py MODEL OUT` begins it or goes on with it.

With a third argument, "anew", it begins it in any case.

It prints "training" when the steps begin, so that a kill falls into them.
"""

import sys
from dataclasses import replace
from pathlib import Path

from course_utils import masking, modeling, profiles, training

SETTINGS = {"max_steps": 8, "eval_steps": 2, "batch_size": 2, "tracker": "none", "dropout": 0.1}
"""A checkpoint every second step; dropout, so that the state of the random numbers counts as well."""


def rows() -> list[dict]:
    """Twelve short rows of unequal length."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Return only JSON with the key n. The number is {'0' * number}{number}."},
                {"role": "assistant", "content": f'{{"n":{number}}}'},
            ]
        }
        for number in range(12)
    ]


def main(model_dir: Path, out: Path, resume: bool) -> None:
    from transformers import TrainerCallback

    class Says(TrainerCallback):
        def on_train_begin(self, *_, **__):
            print("training", flush=True)

    profile = profiles.choose("tiny")
    profile = replace(profile, train=replace(profile.train, output_dir=str(out), **SETTINGS))
    model, tokenizer = modeling.load_model(model_dir, profile)
    model = modeling.attach_lora(model, profile)
    examples = masking.build_dataset(rows(), tokenizer)
    training.train(model, tokenizer, examples, examples, profile.train, resume=resume, callbacks=[Says()])


if __name__ == "__main__":
    modeling.import_unsloth()
    main(Path(sys.argv[1]), Path(sys.argv[2]), resume=sys.argv[3:] != ["anew"])
