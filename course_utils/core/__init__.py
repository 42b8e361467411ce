"""Errors, atomic files, hardware, settings, profiles and the memory budget."""
