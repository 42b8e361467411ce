"""What JupyterLab shows with buttons: chat, mask viewer, template playground, budget.

They show what other modules say and decide nothing. Everything that a person or a model wrote is escaped: a reply that
holds a script is text.
"""

from notebooks.widgets.budget import BudgetSlider
from notebooks.widgets.chat import Chat
from notebooks.widgets.forms import MaskViewer, Playground

__all__ = ["BudgetSlider", "Chat", "MaskViewer", "Playground"]
