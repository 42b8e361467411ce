"""What only the notebooks and the command line need."""
