"""What JupyterLab shows with buttons: chat, mask viewer, template playground, budget.

They show what the modules below them say and decide nothing. Everything that a person or a model wrote is escaped: a
reply that holds a script is text.
"""

from course_utils.lessons.widgets.budget_slider import BudgetSlider
from course_utils.lessons.widgets.chat import Chat
from course_utils.lessons.widgets.mask_viewer import MaskViewer
from course_utils.lessons.widgets.playground import Playground

__all__ = ["BudgetSlider", "Chat", "MaskViewer", "Playground"]
