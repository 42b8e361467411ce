"""Conversations as a model sees them: templates, thinking, masks, packing."""
