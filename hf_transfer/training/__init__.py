"""Training: the Trainer, its callbacks, loss and optimizer."""
