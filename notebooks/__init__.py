"""The lessons, and the modules that only a lesson uses: `from notebooks.load_test import load_test`."""
