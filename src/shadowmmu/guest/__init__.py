"""What can run: scenarios, traces, and the player that carries them out."""
