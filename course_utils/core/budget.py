"""Memory and work of a model from its config alone, before any download: every term with its formula and its source.

A config is the published `config.json` of a Llama- or Qwen-type model as a mapping. Sizes are bytes; a GiB is 2**30.
The formulas count the tensors that exist at the peak of a training step, or of generating. `docs/memory.md` sets them
against measurements.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from course_utils.core.errors import CourseError
from course_utils.core.settings import TrainSettings

Device = Literal["cpu", "cuda"]

GIB = 2**30
CONFIGS: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("configs.json").read_text("utf-8"))
"""Published dimensions of the models that the course speaks of, by the name that `hub.download` takes."""


class BudgetError(CourseError):
    """A config from which no budget can be made."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a Llama- or Qwen-type decoder; a width is a count of numbers per token."""

    layers: int
    hidden: int  # width between the layers
    queries: int  # attention heads x head width
    keys: int  # key-value heads x head width; the values are as wide
    heads: int
    intermediate: int  # width inside the feed-forward part
    vocabulary: int
    tied: bool  # input and output table are one matrix
    head_norms: bool  # Qwen3 normalises queries and keys per head
    biases: bool  # Qwen2 adds a number to each query, key and value
    head_dim: int
    linear_layers: int = 0  # those of `layers` with linear attention (Qwen3.5); they have projections of their own
    linear_keys: int = 0  # width of their keys, and of their queries
    linear_values: int = 0
    linear_heads: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Read the dimensions from a config.

        Args:
            config: a `config.json` as a mapping, or a row of `CONFIGS`. Of a model that also reads pictures, its text
                part counts.

        Raises:
            BudgetError: a dimension is missing, or the model is a mixture of experts.
        """
        config = {**config, **config.get("text_config", {})}
        if config.get("num_experts") or config.get("num_local_experts"):
            raise BudgetError("This config is of a mixture of experts; the budget knows dense models only.")
        try:
            heads = int(config["num_attention_heads"])  # some models have another number in each layer
            head_dim = config.get("head_dim") or config["hidden_size"] // heads
            layers, hybrid = config["num_hidden_layers"], config.get("linear_num_value_heads", 0)
            full = (config.get("layer_types") or []).count("full_attention")
            return cls(
                layers=layers,
                hidden=config["hidden_size"],
                queries=heads * head_dim,
                keys=config.get("num_key_value_heads", heads) * head_dim,
                heads=heads,
                intermediate=config["intermediate_size"],
                vocabulary=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
                head_norms=config.get("model_type") in ("qwen3", "qwen3_5_text"),
                biases=config.get("model_type") == "qwen2",
                head_dim=head_dim,
                linear_layers=layers - (full or layers // config.get("full_attention_interval", 4)) if hybrid else 0,
                linear_keys=config["linear_num_key_heads"] * config["linear_key_head_dim"] if hybrid else 0,
                linear_values=hybrid * config["linear_value_head_dim"] if hybrid else 0,
                linear_heads=hybrid,
            )
        except (KeyError, TypeError) as error:
            found = f"no {error.args[0]!r}" if isinstance(error, KeyError) else f"other dimensions ({error})"
            raise BudgetError(
                f"The config has {found}, so this is no Llama- or Qwen-type model. Give the mapping "
                f"that its config.json holds, or one of {', '.join(CONFIGS)}."
            ) from error

    @property
    def projections(self) -> dict[str, tuple[int, int, int]]:
        """(inputs, outputs, layers that have it) of each matrix, by the names that LoRA's `target_modules` uses."""
        full, gate = self.layers - self.linear_layers, 2 if self.linear_layers else 1  # Qwen3.5's queries bring a gate
        found = {
            "q_proj": (self.hidden, gate * self.queries, full),
            "k_proj": (self.hidden, self.keys, full),
            "v_proj": (self.hidden, self.keys, full),
            "o_proj": (self.queries, self.hidden, full),
            "gate_proj": (self.hidden, self.intermediate, self.layers),
            "up_proj": (self.hidden, self.intermediate, self.layers),
            "down_proj": (self.intermediate, self.hidden, self.layers),
        }
        if self.linear_layers:  # transformers' modeling_qwen3_5, Qwen3_5GatedDeltaNet
            widths = {"in_proj_qkv": 2 * self.linear_keys + self.linear_values, "in_proj_z": self.linear_values}
            widths |= dict.fromkeys(("in_proj_b", "in_proj_a"), self.linear_heads)
            found |= {name: (self.hidden, width, self.linear_layers) for name, width in widths.items()}
            found["out_proj"] = self.linear_values, self.hidden, self.linear_layers
        return found

    @property
    def projected(self) -> int:
        """Weights in the projections of all layers: what 4 or 8 bits apply to."""
        return sum(inputs * outputs * layers for inputs, outputs, layers in self.projections.values())

    @property
    def tables(self) -> int:
        """Weights of the input table, and of the output table (`lm_head`) where it is another one."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def norms(self) -> int:
        """Weights of the normalisation layers, and biases."""
        attention = (2 * self.head_dim if self.head_norms else 0) + (self.queries + 2 * self.keys if self.biases else 0)
        linear = 0
        if self.linear_layers:  # a convolution over 4 tokens, two numbers a head, one norm
            linear = 4 * (2 * self.linear_keys + self.linear_values) + 2 * self.linear_heads
            linear += self.linear_values // self.linear_heads
        full = self.layers - self.linear_layers
        return self.layers * 2 * self.hidden + full * attention + self.linear_layers * linear + self.hidden

    @property
    def parameters(self) -> int:
        """All weights of the base model."""
        return self.projected + self.tables + self.norms


@dataclass(frozen=True)
class Term:
    """One part of a budget."""

    name: str  # what the memory is for
    bytes: int
    formula: str  # how the bytes were counted, with this model's numbers
    source: str  # the paper, library file or measurement that the formula comes from


@dataclass(frozen=True)
class Budget:
    """The memory that a model needs at the peak, term by term."""

    terms: tuple[Term, ...]

    @property
    def total(self) -> int:
        """Bytes of all terms together."""
        return sum(term.bytes for term in self.terms)

    @property
    def gib(self) -> float:
        """The total in GiB."""
        return self.total / GIB

    def table(self) -> list[tuple[str, str, str, str]]:
        """(term, GiB, formula, source) per term, and the total."""
        rows = [(term.name, f"{term.bytes / GIB:.2f}", term.formula, term.source) for term in self.terms]
        return [*rows, ("total", f"{self.gib:.2f}", "", "")]


CPU_PROCESS = int(0.65 * GIB)  # Python with torch, TRL and Unsloth: 0.57 after the imports (docs/memory.md)
CUDA_CONTEXT = int(0.60 * GIB)  # CUDA context, libraries and the allocator's rounding; an estimate, not measured
PLAIN_ATTENTION_UP_TO = 256
"""Rows of up to this many tokens are trained on a CPU with plain matrix products for attention: faster there, but the
attention weights are kept, tokens x tokens per head (docs/training.md)."""

CPU_LOSS_ELEMENTS = 16 * 2**20  # logits in a chunk of Unsloth's cross entropy on a CPU
LINEAR_ATTENTION = ("in_proj_qkv", "in_proj_z", "out_proj")
"""What LoRA changes in a layer of linear attention (Qwen3.5), where others have q, k, v and o."""
CUDA_LOSS_ELEMENTS = 512 * 151_936  # and on a GPU; more where the hidden states themselves are as many
TOKENS_PER_PASS = 2048  # of an evaluation's forward pass at most: a large vocabulary's scores of them take 0.6 GB
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # weights per scale; scales per scale of scales
STATE_BLOCK = 256  # weights per scale of an 8-bit optimiser state
SMALLEST_8BIT_STATE = 4096  # smaller tensors keep 32-bit states


def weights(shape: Shape, bits: Literal[4, 8, 16, 32]) -> Term:
    """The frozen base model; 4 and 8 bits apply to the projections, the rest stays in 16."""
    name = f"weights ({'NF4' if bits == 4 else f'{bits} bits'})"
    if bits >= 16:
        formula = f"{bits // 8} bytes x {shape.parameters / 1e9:.2f}e9 weights"
        return Term(name, shape.parameters * bits // 8, formula, "config")
    rest = 2 * (shape.tables + shape.norms)
    if bits == 8:
        packed = shape.projected + 4 * sum(outputs * layers for _, outputs, layers in shape.projections.values())
        source = "LLM.int8(), arXiv 2208.07339; bitsandbytes Int8Params"
        each = "1 byte and 4 bytes a row"
    else:
        packed = sum(layers * _nf4(inputs * outputs) for inputs, outputs, layers in shape.projections.values())
        source = "QLoRA, arXiv 2305.14314, section 3; bitsandbytes Params4bit"
        each = "1/2 + 1/64 + 4/(64 x 256) bytes"
    formula = f"{each} x {shape.projected / 1e9:.2f}e9 in projections, 2 bytes x {rest / 2e9:.2f}e9 others"
    return Term(name, packed + rest, formula, source)


def _nf4(count: int) -> int:
    """Bytes of one matrix in NF4 with double quantisation: codes, scales, scales of scales, two code books."""
    scales = -(-count // NF4_BLOCK)
    return count // 2 + scales + 4 * -(-scales // NF4_NESTED_BLOCK) + 4 * (16 + 256 + 1)


def lora_targets(targets: tuple[str, ...], linear: bool) -> tuple[str, ...]:
    """The layers that LoRA changes: those named, and where they name attention, in linear attention its own."""
    return targets + LINEAR_ATTENTION if linear and "q_proj" in targets else targets


def lora_sizes(shape: Shape, rank: int, targets: tuple[str, ...]) -> list[int]:
    """Weights in each of LoRA's matrices (A: rank x inputs, B: outputs x rank), over all layers."""
    found = [shape.projections[name] for name in lora_targets(targets, linear=shape.linear_layers > 0)]
    return [rank * width for inputs, outputs, layers in found for width in (inputs, outputs) for _ in range(layers)]


def adapter(shape: Shape, rank: int, targets: tuple[str, ...], optimizer: str) -> tuple[Term, Term, Term]:
    """LoRA's weights, their gradients and the optimiser's two states: all that training changes."""
    sizes = lora_sizes(shape, rank, targets)
    count = sum(sizes)
    million = f"{count / 1e6:.1f}e6"
    if optimizer.endswith("8bit"):
        states = sum(8 * n if n < SMALLEST_8BIT_STATE else 2 * n + 8 * -(-n // STATE_BLOCK) for n in sizes)
        each, source = "2 x (1 + 4/256) bytes", "8-bit optimisers, arXiv 2110.02861; bitsandbytes optimizer.py"
    else:
        states, each, source = 8 * count, "2 x 4 bytes", "AdamW, arXiv 1711.05101: mean and variance in float32"
    where = "LoRA, arXiv 2106.09685; float32, as PEFT and Unsloth hold it"
    return (
        Term("LoRA weights", 4 * count, f"4 bytes x {million} = rank {rank} x (inputs + outputs)", where),
        Term("gradients", 4 * count, f"4 bytes x {million}", "one per trained weight"),
        Term("optimiser states", states, f"{each} x {million}", source),
    )


def activations(shape: Shape, device: Device, settings: TrainSettings, number: int) -> Term:
    """What the backward pass needs of the forward pass, with every row as long as `max_length` allows.

    Layers of linear attention are counted as if theirs were full; nobody has measured them.

    Args:
        shape: the model.
        device: the two backends save different tensors.
        settings: rows, their length, LoRA's rank, and checkpointing: only each layer's input is kept then, and one
            layer at a time is computed again.
        number: bytes of a number of the arithmetic: 4 for float32, else 2.
    """
    # A batch of shorter rows can need more than one of the longest: those that are short enough for plain attention.
    lengths = (settings.max_length, min(settings.max_length, PLAIN_ATTENTION_UP_TO))
    length = max(lengths, key=lambda each: each * _saved_per_token(shape, device, settings.r, each, number)[0])
    tokens = settings.batch_size * length
    layer, source = _saved_per_token(shape, device, settings.r, length, number)
    if not settings.gradient_checkpointing:
        formula = f"{layer:,} bytes x {tokens:,} tokens x {shape.layers} layers"
        return Term("activations", layer * tokens * shape.layers, formula, source)
    # Unsloth moves the inputs of the layers to main memory where there is a GPU; two stay under way.
    kept = shape.layers if device == "cpu" else 2
    formula = f"({layer:,} bytes of one layer + {number} x {shape.hidden:,} x {kept} layer inputs) x {tokens:,} tokens"
    needed = (layer + number * shape.hidden * kept) * tokens
    return Term("activations", needed, formula, f"{source}; checkpointing, arXiv 1604.06174")


def _saved_per_token(shape: Shape, device: Device, rank: int, length: int, number: int) -> tuple[int, str]:
    """Bytes that one layer saves per token for its backward pass (on a GPU in 16 bits), and the source.

    Both lists go through the layer in its order: norm, q k v, head norms, attention, o, norm, gate, up, down.
    """
    h, q, k, i = shape.hidden, shape.queries, shape.keys, shape.intermediate
    attention = number * (q + 2 * k + q) + 4 * shape.heads  # queries, keys, values, output; one float32 sum per head
    if device == "cuda":  # kernels that save one copy and compute the rest again
        head_norms = 2 * (q + k) if shape.head_norms else 0
        saved = 2 * (2 * h) + head_norms + attention + 2 * q + 2 * (2 * h) + 2 * (2 * i)
        return saved, "save_for_backward in unsloth/kernels (fast_lora, rms_layernorm, qk_norm_rope)"
    if length <= PLAIN_ATTENTION_UP_TO:  # keys and values repeated for all heads; weights in float32 and a 16-bit copy
        attention = number * 3 * q + (4 + number % 4) * shape.heads * length
    norms = 2 * 4 * h + 8 + (4 * (q + k) if shape.head_norms else 0)  # in float32
    lora_inputs = number * (h + q + h + i + 7 * rank)  # q k v share theirs, and so do gate and up
    feed_forward = number * 3 * i  # gate, its SiLU, up
    return norms + attention + lora_inputs + feed_forward, "transformers' modeling_llama and PEFT's lora/layer, counted"


def loss(shape: Shape, device: Device, tokens: int, number: int) -> Term:
    """Logits and their gradient, which Unsloth computes in chunks: never tokens x vocabulary at once."""
    if device == "cpu":
        chunk = min(tokens * shape.vocabulary, max(CPU_LOSS_ELEMENTS, 16 * shape.vocabulary))
        copy, source = number % 4, "unsloth_zoo/cpu/ops.py"  # logits in float32, and in 16 bits where it is the format
        logits, rest = (4 + copy) * chunk, f"{number} x {tokens:,} x {shape.hidden:,}"
        formula = f"(4 + {copy}) bytes x {chunk / 1e6:.0f}e6 logits of a chunk + {rest}"
    else:
        chunk = min(tokens * shape.vocabulary, max(CUDA_LOSS_ELEMENTS, tokens * shape.hidden))
        logits, source = 4 * chunk, "unsloth_zoo/fused_losses/fused_linear.py, fused_linear_rows"
        formula = f"4 bytes x {chunk / 1e6:.0f}e6 logits of a chunk + {number} x {tokens:,} x {shape.hidden:,}"
    return Term("logits and loss", logits + number * tokens * shape.hidden, formula, source)


def key_value_cache(shape: Shape, *, rows: int, length: int, number: int = 2) -> Term:
    """Keys and values of all tokens so far, which generating keeps."""
    layers = shape.layers - shape.linear_layers
    formula = f"2 x {number} bytes x {layers} layers x {shape.keys:,} x {rows * length:,} tokens"
    source = "Attention with a cache: transformers' DynamicCache"
    return Term("key-value cache", 2 * number * layers * shape.keys * rows * length, formula, source)


def scores(shape: Shape, *, rows: int, length: int, number: int) -> Term:
    """The logits of an evaluation's pass over references, and one row of them in float32 with its log-probabilities."""
    tokens = length * min(rows, max(1, TOKENS_PER_PASS // length))
    formula = f"({number} bytes x {tokens:,} tokens + 8 x {length:,}) x {shape.vocabulary:,}"
    needed = (number * tokens + 8 * length) * shape.vocabulary
    return Term("scores", needed, formula, "course_utils/evals/evaluation.py")


def overhead(shape: Shape, device: Device, bits: int) -> Term:
    """What a process holds besides the model."""
    if device == "cpu":
        return Term("process", CPU_PROCESS, "Python and libraries", "measured, docs/memory.md")
    buffer = 2 * max(inputs * outputs for inputs, outputs, _ in shape.projections.values()) if bits == 4 else 0
    formula = "CUDA context and rounding" + (f" + one matrix unpacked ({buffer / 2**20:.0f} MiB)" if buffer else "")
    return Term("overhead", CUDA_CONTEXT + buffer, formula, "estimate; unsloth/kernels/utils.py for the buffer")


def training_flops(shape: Shape, settings: TrainSettings, tokens: int) -> int:
    """Floating point operations to train LoRA.

    A matrix takes 2 operations per weight and token in the forward pass, and 2 in the backward pass for the gradient
    of its input. The base is frozen, so only the adapter takes another 2 for the gradient of its weights (the usual 6
    per weight, arXiv 2001.08361, appendix B, are for full training).

    Args:
        shape: the model.
        settings: LoRA, `max_length`, over which attention looks back, and checkpointing, which computes the layers a
            second time.
        tokens: of all rows and epochs, padding included.
    """
    head = 2 * shape.vocabulary * shape.hidden
    full = shape.layers - shape.linear_layers
    attention = 2 * 2 * shape.queries * settings.max_length * full  # with the half that the mask throws away
    adapter = 2 * sum(lora_sizes(shape, settings.r, settings.target_modules))
    layers = 2 * shape.projected + attention
    passes = 3 if settings.gradient_checkpointing else 2
    return tokens * ((layers + adapter) * passes + adapter + 2 * head)
