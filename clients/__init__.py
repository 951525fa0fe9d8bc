"""What a client does: local training, private statistics, and the account of what it released."""
