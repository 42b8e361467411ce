"""What happens to a trained adapter: merge, serve, publish."""
