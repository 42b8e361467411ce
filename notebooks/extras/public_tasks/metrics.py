"""The harness calls these with a row and the list of its replies, here one."""

import json


def json_valid(row, replies):
    """1.0 for a reply that is a JSON object and nothing else."""
    try:
        value = json.loads(replies[0], parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = None
    return {"json_valid": float(isinstance(value, dict))}


def _refuse(name):
    raise ValueError(f"{name} is not JSON")
