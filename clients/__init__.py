"""What does a client do? Engines, local training, and the mechanisms that noise its statistics."""
