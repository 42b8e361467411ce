"""Whether a model fits, before any download."""

from __future__ import annotations

from dataclasses import replace

from ipywidgets import HTML, Checkbox, Dropdown, HBox, IntSlider, Layout, SelectionSlider, VBox

from course_utils.core.budget import CONFIGS
from course_utils.core.profiles import PROFILES, memory_budget
from course_utils.lessons import figures, tables
from notebooks.memory_figure import memory
from notebooks.widgets.common import WIDE


class BudgetSlider(VBox):
    """The memory that training needs, term by term, and whether a GPU has it.

    Attributes:
        profile: where the other settings begin; "cpu" is counted for the CPU, the others for a GPU.
        model: whose config is counted.
        bits: of a weight of the frozen base.
        rank: of LoRA.
        length: tokens of a row.
        rows: of a forward pass.
        checkpointing: compute the activations again in the backward pass.
        there: memory of the GPU (or of the machine), in GiB.
        shown: whether it fits, the picture and the terms.
    """

    def __init__(self) -> None:
        """Show the model of the 16 GB profile on a GPU of that size."""
        self.profile = Dropdown(options=list(PROFILES), value="16gb", description="begin with profile", **WIDE)
        self.model = Dropdown(options=list(CONFIGS), description="model", **WIDE)
        self.bits = Dropdown(options=(4, 8, 16), description="bits of the base", **WIDE)
        self.rank = SelectionSlider(options=(4, 8, 16, 32, 64, 128), description="LoRA rank", **WIDE)
        self.length = IntSlider(min=256, max=8192, step=256, description="tokens of a row", **WIDE)
        self.rows = IntSlider(min=1, max=32, description="rows at once", **WIDE)
        self.checkpointing = Checkbox(description="gradient checkpointing", **WIDE)
        self.there = IntSlider(15, min=4, max=80, description="memory (GiB)", **WIDE)
        self.shown = HTML()
        self._setting = False  # True while a profile sets the controls: one picture then, not one for each
        counted = (self.model, self.bits, self.rank, self.length, self.rows, self.checkpointing)
        self.profile.observe(self._begin, "value")
        for control in (*counted, self.there):
            control.observe(self._look, "value")
        columns = [VBox([self.profile, *counted[:3]]), VBox([*counted[3:], self.there])]
        super().__init__([HBox(columns, layout=Layout(flex_flow="row wrap")), self.shown])
        self._begin()

    def _begin(self, _: object = None) -> None:
        """Set the controls to what the chosen profile says."""
        profile = PROFILES[self.profile.value]
        train = profile.train
        self._setting = True
        self.model.value, self.bits.value = profile.model, profile.bits
        self.rank.value, self.length.value, self.rows.value = train.r, train.max_length, train.batch_size
        self.checkpointing.value = train.gradient_checkpointing
        self._setting = False
        self._look()

    def _look(self, _: object = None) -> None:
        if self._setting:
            return
        profile, there = PROFILES[self.profile.value], self.there.value
        train = replace(
            profile.train,
            r=self.rank.value,
            max_length=self.length.value,
            batch_size=self.rows.value,
            gradient_checkpointing=self.checkpointing.value,
        )
        found = memory_budget(CONFIGS[self.model.value], replace(profile, train=train), bits=self.bits.value)
        verdict = "fits" if found.gib <= there else "does not fit"
        head = f"<b>{found.gib:.1f} GiB: {verdict} into {there} GiB.</b>"
        name = self.model.value.split("/")[-1]
        picture = figures.image(memory({name: found}, gpus=[] if self.profile.value == "cpu" else [there]))
        terms = tables.table(found.table(), columns=("term", "GiB", "counted as", "source")).html
        self.shown.value = f'<div style="line-height:1.4">{head}{picture}{terms}</div>'
