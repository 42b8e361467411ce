"""Wrong answers to exercise 01: each is the solution with one of its lines as people write it."""

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "read_name": [
        ("a size has no fraction", r"(\d+(?:\.\d+)?)([BM])", r"(\d+)([BM])"),
        ("millions are billions", '(1000 if size[2] == "M" else 1)', "1"),
        ("the date anywhere in a part", r'fullmatch(r"\d{4}", part)', r'search(r"\d{4}", part)'),
        ("any number is a date", r"\d{4}", r"\d+"),
        ("the active weights are a size", '["active"] =', '["size"] ='),
        ("active weights without B", r"A(\d+(?:\.\d+)?)B", r"A(\d+(?:\.\d+)?)B?"),
        ("no kind Thinking", '("Base", "Chat", "Instruct", "Thinking")', '("Base", "Chat", "Instruct")'),
        ("the family is one part", '"-".join(family)', "family[0] if family else ''"),
        ("the maker belongs to the family", 'rest.split("-")', 'name.split("-")'),
        ("the size is a text", 'float(size[1]) / (1000 if size[2] == "M" else 1)', "size[1]"),
    ],
    "plan_resume": [
        ("one byte too late", "bytes={start}-", "bytes={start + 1}-"),
        ("one byte too early", "start = have if", "start = max(have - 1, 0) if"),
        ("everything anew", "have if have < size else 0", "0"),
        ("what is too long counts as whole", "have != size", "have < size"),
        ("what is whole is asked for", "if have != size:", "if True:"),
        ("what is there counts as left", "left += size - start", "left += size"),
        ("the parts on the disk only", "in wanted.items()", "in [(n, wanted[n]) for n in there if n in wanted]"),
        ("a file that is too long is continued", "have if have < size else 0", "have"),
    ],
    "training_memory": [
        ("keys as wide as queries", 'config["num_key_value_heads"] * head', 'config["num_attention_heads"] * head'),
        (
            "heads as wide as hidden / heads",
            'config["head_dim"]',
            '(config["hidden_size"] // config["num_attention_heads"])',
        ),
        ("the output table is forgotten", '(1 if config["tie_word_embeddings"] else 2)', "1"),
        ("both tables always", '(1 if config["tie_word_embeddings"] else 2)', "2"),
        ("no norms in the heads", '(2 * head if config["model_type"] == "qwen3" else 0)', "0"),
        ("no last norm", "+ tables + hidden", "+ tables"),
        ("LoRA on inputs only", "rank * (a + b)", "rank * a"),
        ("LoRA on q, k, v, o only", "for a, b in matrices)\n    return", "for a, b in matrices[:4])\n    return"),
        ("LoRA in 16 bits", '"LoRA": 4', '"LoRA": 2'),
        ("one state of the optimiser", '"optimiser": 8', '"optimiser": 4'),
        ("gradients of all weights", '"gradients": 4 * trained', '"gradients": 4 * weights'),
        ("one layer", "layers * sum(rank", "sum(rank"),
    ],
    "missing_files": [
        ("empty files are there", " and (folder / name).stat().st_size > 0", ""),
        ("no chat template", '        needed.add("chat_template.jinja")', "        pass"),
        (
            "the template must be a file",
            'if not (there(settings.name) and "chat_template" in',
            'if True or not (there(settings.name) and "x" in',
        ),
        (
            "the shards are not looked for",
            'needed |= set(json.loads(index.read_text())["weight_map"].values())',
            "pass",
        ),
        (
            "any shard will do",
            "if there(index.name):",
            'if any(folder.glob("model-*")):\n        pass\n    elif there(index.name):',
        ),
        (
            "one file always",
            '    else:\n        needed.add("model.safetensors")',
            '    needed.add("model.safetensors")',
        ),
        (
            "each weight's file again",
            "return sorted(name for name in needed",
            "return sorted(name for name in [*needed] * 2",
        ),
        ("the names of the weights", '["weight_map"].values()', '["weight_map"].keys()'),
        (
            "a part counts",
            "(folder / name).is_file() and (folder / name).stat().st_size > 0",
            "any(f.stat().st_size for f in folder.glob(name + '*'))",
        ),
    ],
    "script": [
        ("set after the import", '"import os",', '"import os; from huggingface_hub import constants",'),
        (
            "the user's choice is written over",
            'os.environ.setdefault("HF_ENDPOINT", "{address}")',
            'os.environ["HF_ENDPOINT"] = "{address}"',
        ),
        ("always the same mirror", '"{address}"', '"https://hf-mirror.com"'),
        ("another variable", "HF_ENDPOINT", "HF_HUB_ENDPOINT"),
        (
            "the address is printed, not used",
            'f\'os.environ.setdefault("HF_ENDPOINT", "{address}")\'',
            '"class constants: ENDPOINT = " + repr(address)',
        ),
        ("nothing is printed", '            "print(constants.ENDPOINT)",\n', ""),
        ("no import of os", '            "import os",\n', ""),
    ],
    "too_late": [
        ("any order", "if imported and target ==", "if target =="),
        ("no from-imports", "names = [statement.module]", "pass"),
        ("no plain imports", "names = [alias.name for alias in statement.names]", "pass"),
        ("only the first name of an import", "for alias in statement.names]", "for alias in statement.names[:1]]"),
        ("parts of a library do not count", 'name.split(".")[0] in READERS', "name in READERS"),
        ("the beginning of a name will do", 'name.split(".")[0] in READERS', "name.startswith(READERS)"),
        ("each time again", " and name not in late", ""),
        ("the last import decides", "imported = imported or any", "imported = any"),
        ("any dict", "target == f\"os.environ['{name}']\"", "target.endswith(f\"['{name}']\")"),
        ("text search", "if imported and target ==", "if imported and name in ast.unparse(statement) or target =="),
    ],
}

SURVIVORS = {  # task: mutant: why no check can or should notice it
    "plan_resume": {"8:28 have < size → have <= size": "equal sizes were left out two lines before"},
}
