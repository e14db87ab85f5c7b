"""What `data.source` may name, and how each kind is read: one file for each."""
