"""One file for each `hf-transfer` command: its options, and what it prints. Nothing heavy is imported until one runs."""
