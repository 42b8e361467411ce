"""Ids and labels of a recipe's rows, as one line of JSON; runs in LLaMA-Factory's environment (`llamafactory_env`).

Source: LLaMA-Factory 0.9.5, the first lines of `run_sft` in `src/llamafactory/train/sft/workflow.py`.
"""

import json
import sys
from pathlib import Path

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

model, data, training, _, _ = get_train_args(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
tools = load_tokenizer(model)
template = get_template_and_fix_tokenizer(tools["tokenizer"], data)
rows = get_dataset(template, model, data, training, stage="sft", **tools)["train_dataset"]
print(json.dumps([{key: row[key] for key in ("input_ids", "labels")} for row in rows]))
