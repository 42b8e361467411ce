"""Load a model, attach an adapter, train it."""
