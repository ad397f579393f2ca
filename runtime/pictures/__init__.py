"""Pictures in files: what they are called, how they are read by rows, and written."""
