"""What JupyterLab shows with buttons: chat, ballot, mask viewer, template playground, budget.

They show what the rooms below them say and decide nothing. Everything that a person or a model wrote is escaped: a
reply that holds a script is text.
"""

from course_utils.widgets.budget_slider import BudgetSlider
from course_utils.widgets.chat import Chat
from course_utils.widgets.mask_viewer import MaskViewer
from course_utils.widgets.playground import Playground
from course_utils.widgets.vote import Vote

__all__ = ["BudgetSlider", "Chat", "MaskViewer", "Playground", "Vote"]
