"""The mechanics of learning, once: losses, optimizer, loop, checkpoints."""
