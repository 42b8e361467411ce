"""Replies, what they are worth, and how far a figure can be trusted."""
