"""Lesson 06's table of the flags that `serving.command` gives."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

FLAGS: Mapping[str, str] = {
    "--host": "who can reach it: this machine only; open it to a network only behind something that checks who asks",
    "--port": "where it listens: any free one",
    "--max-model-len": "longest conversation in tokens, prompt and reply together; each takes memory in the KV cache",
    "--gpu-memory-utilization": "share of the GPU that vLLM takes at the start: weights, then KV cache with the rest; "
    "what is left is for the screen and CUDA itself",
    "--max-num-seqs": "replies generated at the same time; further requests wait",
    "--max-num-batched-tokens": "tokens computed in one step: bounds the memory that long prompts take",
    "--enforce-eager": "no CUDA graphs: 1 to 2 GB less, somewhat slower",
    "--dtype": "number format of the arithmetic; a T4 has no bfloat16",
    "--reasoning-parser": "puts thinking into a field of its own, `reasoning`; only where the template knows thinking",
    "--enable-auto-tool-choice": "lets a request offer tools; without it such a request is refused",
    "--tool-call-parser": "puts calls into a field of their own, `tool_calls`; hermes is the form of Qwen2.5 and Qwen3",
    "--kv-cache-dtype": "KV cache in 8 bits: twice the tokens in the same memory, a little quality; needs compute "
    "capability 8.9 (RTX 40, L4) or more",
    "--enable-lora": "adapters mounted on one base; a request names the one it wants as its model",
    "--lora-modules": "name and folder of each adapter",
    "--max-lora-rank": "highest rank accepted, 16 unless it is said; a larger adapter is refused",
}
"""What each flag of `serving.command` is for, and what it does on a 16 GB GPU."""


def explain(line: Sequence[str]) -> list[tuple[str, str, str]]:
    """The flags of a command for people.

    Args:
        line: what `serving.command` returned.

    Returns:
        (flag, value, why) in the order of the line; the value is "" where the flag has none.
    """
    rows = []
    for part, following in pairwise([*line, "--"]):
        if part.startswith("--"):
            flag, _, value = part.partition("=")
            rows.append((flag, value or ("" if following.startswith("--") else following), FLAGS[flag]))
    return rows
